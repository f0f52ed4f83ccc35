/* oracle: user root
 * System V shared memory: identifiers, addresses, attachments as processes come and go, removal. */
#include "oracle.h"
#include <sys/ipc.h>
#include <sys/shm.h>

#define PAGE 4096

static int id;

static struct shmid_ds stat_of(void)
{
	struct shmid_ds ds;
	memset(&ds, 0, sizeof ds);
	if (shmctl(id, IPC_STAT, &ds)) printf("stat: %s\n", name_of(errno));
	return ds;
}
static void attached(const char *when)
{
	printf("%s: attached %lu\n", when, (unsigned long)stat_of().shm_nattch);
}

static void addresses(void)
{
	char *p = shmat(id, NULL, 0);
	printf("attached %d\n", p != (void *)-1);
	strcpy(p, "hello");
	char *q = shmat(id, NULL, SHM_RDONLY);
	printf("\"%s\" again, elsewhere %d\n", q, p != q);
	attached("two");
	T(mprotect(q, PAGE, PROT_READ | PROT_WRITE));
	CHILD("read only", q[0] = 1);
	char *hole = mmap(NULL, 16 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	T((long)shmat(id, hole, 0));
	T((long)shmat(id, hole + 1, 0));
	T((long)shmat(id, NULL, SHM_REMAP));
	M(munmap(hole, 16 * PAGE));
	printf("there %d\n", shmat(id, hole + 100, SHM_RND) == hole);
	printf("\"%s\"\n", hole);
	printf("replaced %d\n", shmat(id, hole, SHM_REMAP) == hole);
	attached("three");
	T(shmdt(hole + 1));
	T(shmdt(hole + PAGE));
	T(shmdt(hole));
	T(shmdt(hole));
	attached("two");
	/* A piece of the middle is unmapped: there are two pieces. */
	M(munmap(q + PAGE, PAGE));
	attached("a hole");
	M(munmap(q, PAGE));
	attached("no beginning");
	T(shmdt(q));
	attached("one");
	T(shmdt(q));
	/* Moved by mremap. */
	M(mprotect(p, PAGE, PROT_READ));
	attached("split");
	M(mprotect(p, PAGE, PROT_READ | PROT_WRITE));
	T(shmdt(p));
	attached("none");
	int x = M(shmget(IPC_PRIVATE, 100, 0700));
	char *code = shmat(x, NULL, SHM_EXEC);
	memcpy(code, "\xb8\x2a\x00\x00\x00\xc3", 6);
	printf("executed: %d\n", ((int (*)(void))code)());
	M(shmctl(x, IPC_RMID, NULL));
	T(shmdt(code));
}

static void processes(void)
{
	int go[2], ready[2];
	char c;
	M(pipe(go));
	M(pipe(ready));
	char *p = shmat(id, NULL, 0);
	pid_t child = fork();
	if (child == 0) {
		attached("in the child");
		strcpy(p, "from the child");
		M(write(ready[1], "x", 1));
		M(read(go[0], &c, 1));
		_exit(0);
	}
	M(read(ready[0], &c, 1));
	printf("\"%s\"\n", p);
	M(write(go[1], "x", 1));
	reap("child", child);
	attached("child is gone");
	CHILD("exec", { execl("/proc/self/exe", "sysv_shm", "attached", NULL); });
	child = vfork();
	if (child == 0) _exit(0);
	reap("vfork", child);
	attached("one");
	struct shmid_ds ds = stat_of();
	printf("mine %d %d, times %d %d\n", ds.shm_cpid == getpid(), ds.shm_lpid == getpid() || ds.shm_lpid != 0,
	       labs(ds.shm_atime - time(NULL)) < 10, labs(ds.shm_ctime - time(NULL)) < 10);
	/* Removed: it stays while somebody has it, and only by its identifier. */
	T(shmctl(id, IPC_RMID, NULL));
	ds = stat_of();
	printf("mode %o key %d attached %lu\n", ds.shm_perm.mode, ds.shm_perm.__key, (unsigned long)ds.shm_nattch);
	char *q = shmat(id, NULL, 0);
	printf("attached after removal: \"%s\"\n", q);
	T(shmdt(p));
	attached("still");
	strcpy(q, "last");
	T(shmdt(q));
	T(shmctl(id, IPC_STAT, &ds));
	T((long)shmat(id, NULL, 0));
	T(shmctl(id, IPC_RMID, NULL));
	/* With the last process. */
	id = M(shmget(IPC_PRIVATE, PAGE, 0600));
	child = fork();
	if (child == 0) {
		M((long)shmat(id, NULL, 0));
		M(write(ready[1], "x", 1));
		pause();
	}
	M(read(ready[0], &c, 1));
	T(shmctl(id, IPC_RMID, NULL));
	attached("the child's");
	kill(child, SIGKILL);
	reap("child", child);
	T(shmctl(id, IPC_STAT, &ds));
	/* And with the last unmapping. */
	id = M(shmget(IPC_PRIVATE, 2 * PAGE, 0600));
	p = shmat(id, NULL, 0);
	M(shmctl(id, IPC_RMID, NULL));
	M(munmap(p, PAGE));
	attached("half");
	M(munmap(p + PAGE, PAGE));
	T(shmctl(id, IPC_STAT, &ds));
}

int main(int argc, char **argv)
{
	(void)argv;
	key_t key = 0x53000000 | (getpid() & 0xffffff);
	if (argc > 1) {
		printf("a new image\n");
		return 0;
	}
	T(shmget(key, 100, 0600));
	T(shmget(key, 0, 0600 | IPC_CREAT));
	T(shmget(IPC_PRIVATE, -1UL, 0600));
	id = OK(shmget(key, 3 * PAGE - 7, 0640 | IPC_CREAT | IPC_EXCL));
	T(shmget(key, 100, 0600 | IPC_CREAT | IPC_EXCL));
	T(shmget(key, 3 * PAGE, 0600));
	printf("same %d\n", shmget(key, 3 * PAGE - 7, 0600) == id);
	struct shmid_ds ds = stat_of();
	printf("key %d size %lu mode %o uid %d gid %d attached %lu cpid %d lpid %d atime %ld dtime %ld\n", ds.shm_perm.__key == key,
	       (unsigned long)ds.shm_segsz, ds.shm_perm.mode, ds.shm_perm.uid == getuid(), ds.shm_perm.gid == getgid(), (unsigned long)ds.shm_nattch,
	       ds.shm_cpid == getpid(), ds.shm_lpid, ds.shm_atime, ds.shm_dtime);
	T((long)shmat(-1, NULL, 0));
	T(shmctl(id, 99, &ds));
	T(shmctl(id, IPC_STAT, (void *)8));
	T(shmctl(-1, IPC_STAT, &ds));
	ds.shm_perm.mode = 0666;
	T(shmctl(id, IPC_SET, &ds));
	T(shmctl(id, SHM_LOCK, NULL));
	printf("mode %o\n", stat_of().shm_perm.mode);
	T(shmctl(id, SHM_UNLOCK, NULL));
	printf("mode %o\n", stat_of().shm_perm.mode);
	struct shminfo info;
	OK(shmctl(0, IPC_INFO, (void *)&info));
	printf("max %lu min %lu mni %lu seg %lu all %lu\n", info.shmmax, info.shmmin, info.shmmni, info.shmseg, info.shmall);
	struct shm_info used;
	OK(shmctl(0, SHM_INFO, (void *)&used));
	addresses();
	processes();
	return 0;
}
