/* oracle: user root
 * System V semaphores: operations that are atomic, order of wake-ups, undo, signals and times. */
#include "oracle.h"
#include <pthread.h>
#include <sys/ipc.h>
#include <sys/sem.h>

/* As T, but prints a while later: who made the call possible prints first. */
#define LATE(call)                                                               \
	({                                                                       \
		errno = 0;                                                       \
		long late_r = (long)(call);                                      \
		int late_e = errno;                                              \
		msleep(100);                                                     \
		printf("%s: %ld %s\n", #call, late_r, late_r < 0 ? name_of(late_e) : ""); \
	})

union arg {
	int val;
	struct semid_ds *buf;
	unsigned short *array;
	struct seminfo *info;
};

static int id;

static int op1(int num, int op, int flg)
{
	struct sembuf b = { num, op, flg };
	return semop(id, &b, 1);
}
static int val(int num)
{
	return semctl(id, num, GETVAL);
}
static void values(const char *when)
{
	printf("%s: %d %d %d\n", when, val(0), val(1), val(2));
}
static void set(int a, int b, int c)
{
	unsigned short v[3] = { a, b, c };
	M(semctl(id, 0, SETALL, (union arg){ .array = v }));
}
/* Until so many sleep. */
static void sleepers(int num, int n, int z)
{
	for (int i = 0; i < 5000 && (semctl(id, num, GETNCNT) != n || semctl(id, num, GETZCNT) != z); i++)
		msleep(2);
	printf("on %d wait %d and %d\n", num, semctl(id, num, GETNCNT), semctl(id, num, GETZCNT));
}
static void handler(int sig)
{
	(void)sig;
}
static void *undoing(void *p)
{
	(void)p;
	M(op1(0, 1, SEM_UNDO));
	return NULL;
}

static void identifiers(void)
{
	key_t key = 0x4e000000 | (getpid() & 0xffffff);
	T(semget(key, 3, 0600));
	T(semget(IPC_PRIVATE, 0, 0600));
	T(semget(IPC_PRIVATE, -1, 0600));
	T(semget(IPC_PRIVATE, 1000000, 0600));
	int a = OK(semget(key, 3, 0600 | IPC_CREAT));
	T(semget(key, 3, 0600 | IPC_CREAT | IPC_EXCL));
	T(semget(key, 4, 0600));
	printf("same %d %d\n", semget(key, 3, 0600) == a, semget(key, 0, 0) == a);
	struct semid_ds ds;
	memset(&ds, 0x55, sizeof ds);
	T(semctl(a, 0, IPC_STAT, (union arg){ .buf = &ds }));
	printf("key %d uid %d %d gid %d %d mode %o nsems %lu otime %ld ctime %d\n", ds.sem_perm.__key == key, ds.sem_perm.uid == getuid(),
	       ds.sem_perm.cuid == getuid(), ds.sem_perm.gid == getgid(), ds.sem_perm.cgid == getgid(), ds.sem_perm.mode, ds.sem_nsems,
	       ds.sem_otime, labs(ds.sem_ctime - time(NULL)) < 10);
	ds.sem_perm.mode = 07640;
	T(semctl(a, 0, IPC_SET, (union arg){ .buf = &ds }));
	T(semctl(a, 0, IPC_STAT, (union arg){ .buf = &ds }));
	printf("mode %o\n", ds.sem_perm.mode);
	ds.sem_perm.uid = -1;
	T(semctl(a, 0, IPC_SET, (union arg){ .buf = &ds }));
	T(semctl(a, 0, IPC_STAT, (union arg){ .buf = (void *)8 }));
	T(semctl(a, 0, 77));
	T(semctl(-1, 0, GETVAL));
	T(semctl(a, 3, GETVAL));
	T(semctl(a, -1, GETVAL));
	T(semctl(a, 0, IPC_RMID));
	T(semctl(a, 0, GETVAL));
	T(semget(key, 3, 0600));
	struct seminfo info;
	OK(semctl(0, 0, IPC_INFO, (union arg){ .info = &info }));
	printf("map %d mni %d mns %d mnu %d msl %d opm %d ume %d usz %d vmx %d aem %d\n", info.semmap, info.semmni, info.semmns,
	       info.semmnu, info.semmsl, info.semopm, info.semume, info.semusz, info.semvmx, info.semaem);
	OK(semctl(0, 0, SEM_INFO, (union arg){ .info = &info }));
	/* An identifier is not used again soon. */
	int first = M(semget(IPC_PRIVATE, 1, 0600));
	M(semctl(first, 0, IPC_RMID));
	int second = M(semget(IPC_PRIVATE, 1, 0600));
	printf("again %d\n", first == second);
	T(semctl(first, 0, GETVAL));
	M(semctl(second, 0, IPC_RMID));
	T(semctl(second, 0, GETVAL));
}

static void operations(void)
{
	set(1, 0, 5);
	T(op1(0, -1, IPC_NOWAIT));
	T(op1(0, -1, IPC_NOWAIT));
	T(op1(3, 1, 0));
	T(op1(0, 32767, 0));
	T(op1(0, 1, 0));
	set(1, 0, 5);
	struct sembuf b[4] = { { 0, -1, 0 }, { 1, 1, 0 }, { 2, -6, IPC_NOWAIT }, { 1, 1, 0 } };
	T(semop(id, b, 3));
	values("nothing done");
	b[2].sem_op = -5;
	T(semop(id, b, 3));
	values("all done");
	struct sembuf same[3] = { { 0, 1, 0 }, { 0, -1, 0 }, { 0, 0, IPC_NOWAIT } };
	T(semop(id, same, 3));
	struct sembuf turned[2] = { { 0, -1, IPC_NOWAIT }, { 0, 1, 0 } };
	T(semop(id, turned, 2));
	T(semop(id, b, 0));
	T(semop(id, b, 501));
	T(semop(-1, b, 1));
	T(semop(id, (void *)8, 1));
	struct timespec t = { 0, 20000000 }, bad = { 0, 1000000000 };
	set(0, 0, 0);
	struct sembuf wait = { 0, -1, 0 };
	T(semtimedop(id, &wait, 1, &t));
	T(semtimedop(id, &wait, 1, &bad));
	T(semtimedop(id, &wait, 1, (void *)8));
	t.tv_nsec = 0;
	T(semtimedop(id, &wait, 1, &t));
	printf("pid %d\n", semctl(id, 0, GETPID) == getpid());
	T(semctl(id, 0, SETVAL, (union arg){ .val = 32768 }));
	T(semctl(id, 0, SETVAL, (union arg){ .val = -1 }));
	T(semctl(id, 0, SETVAL, (union arg){ .val = 7 }));
	unsigned short v[3] = { 1, 2, 40000 };
	T(semctl(id, 0, SETALL, (union arg){ .array = v }));
	T(semctl(id, 0, GETALL, (union arg){ .array = v }));
	printf("%d %d %d\n", v[0], v[1], v[2]);
	T(semctl(id, 0, GETALL, (union arg){ .array = (void *)8 }));
}

static void order(void)
{
	int out[2];
	char c[16] = "";
	set(0, 0, 0);
	M(pipe(out));
	for (int i = 0; i < 4; i++) {
		/* The second needs more than the others. */
		struct sembuf b = { 0, i == 1 ? -3 : -1, 0 };
		if (fork() == 0) {
			if (semop(id, &b, 1) == 0) M(write(out[1], &"abcd"[i], 1));
			_exit(0);
		}
		sleepers(0, i + 1, 0);
	}
	M(op1(0, 1, 0));
	M(read(out[0], c, 1));
	M(op1(0, 1, 0));
	M(read(out[0], c + 1, 1));
	sleepers(0, 2, 0);
	M(op1(0, 3, 0));
	M(read(out[0], c + 2, 1));
	M(op1(0, 1, 0));
	M(read(out[0], c + 3, 1));
	printf("woken %s\n", c);
	while (wait(NULL) > 0)
		;
	values("after");
	/* Waiting for zero. */
	set(1, 0, 0);
	pid_t p = fork();
	if (p == 0) {
		LATE(op1(0, 0, 0));
		_exit(0);
	}
	sleepers(0, 0, 1);
	M(op1(0, -1, 0));
	reap("zero", p);
	close(out[0]);
	close(out[1]);
}

static void interruptions(void)
{
	set(0, 0, 0);
	pid_t p = fork();
	if (p == 0) {
		struct sigaction sa = { .sa_handler = handler, .sa_flags = SA_RESTART };
		sigaction(SIGUSR1, &sa, NULL);
		T(op1(0, -1, 0));
		signal(SIGUSR2, SIG_IGN);
		T(op1(0, -1, 0));
		LATE(op1(1, -1, 0));
		_exit(0);
	}
	sleepers(0, 1, 0);
	kill(p, SIGUSR1);
	msleep(50);
	sleepers(0, 1, 0);
	kill(p, SIGUSR2);
	M(op1(0, 1, 0));
	sleepers(1, 1, 0);
	T(semctl(id, 0, IPC_RMID));
	reap("child", p);
	id = M(semget(IPC_PRIVATE, 3, 0600));
	/* Who is killed in its sleep takes nothing. */
	p = fork();
	if (p == 0) {
		op1(0, -1, 0);
		_exit(0);
	}
	sleepers(0, 1, 0);
	kill(p, SIGKILL);
	reap("killed", p);
	M(op1(0, 1, 0));
	values("not taken");
}

static void undo(void)
{
	set(0, 3, 0);
	CHILD("undone", {
		M(op1(0, 2, SEM_UNDO));
		M(op1(1, -2, SEM_UNDO));
		M(op1(2, 1, 0));
		values("inside");
	});
	values("outside");
	CHILD("forgotten", {
		M(op1(0, 2, SEM_UNDO));
		M(semctl(id, 0, SETVAL, (union arg){ .val = 9 }));
	});
	values("outside");
	set(0, 0, 0);
	CHILD("not below zero", {
		M(op1(0, 2, SEM_UNDO));
		CHILD("other", M(op1(0, -1, 0)));
	});
	values("outside");
	CHILD("thread", {
		pthread_t t;
		pthread_create(&t, NULL, undoing, NULL);
		pthread_join(t, NULL);
		values("thread is gone");
	});
	values("process is gone");
	CHILD("fork", {
		M(op1(0, 1, SEM_UNDO));
		CHILD("has nothing to undo", {});
		values("child is gone");
	});
	CHILD("killed", {
		M(op1(0, 1, SEM_UNDO));
		raise(SIGKILL);
	});
	values("killed");
	CHILD("exec", {
		M(op1(1, 1, SEM_UNDO));
		char n[16];
		snprintf(n, sizeof n, "%d", id);
		execl("/proc/self/exe", "sysv_sem", n, NULL);
	});
	values("exec");
	CHILD("unshare", {
		M(op1(1, 1, SEM_UNDO));
		T(unshare(CLONE_SYSVSEM));
		values("unshared");
	});
	CHILD("range", {
		M(op1(0, 32767, SEM_UNDO));
		M(op1(0, -32767, 0));
		T(op1(0, 1, SEM_UNDO));
		T(op1(0, 2, SEM_UNDO));
	});
	set(0, 0, 0);
	/* Undoing wakes. */
	M(semctl(id, 0, SETVAL, (union arg){ .val = 1 }));
	pid_t holder = fork();
	if (holder == 0) {
		M(op1(0, -1, SEM_UNDO));
		pause();
	}
	for (int i = 0; i < 2000 && val(0); i++) msleep(2);
	pid_t waiter = fork();
	if (waiter == 0) {
		LATE(op1(0, -1, 0));
		_exit(0);
	}
	sleepers(0, 1, 0);
	kill(holder, SIGKILL);
	reap("holder", holder);
	reap("waiter", waiter);
}

int main(int argc, char **argv)
{
	if (argc > 1) {
		id = atoi(argv[1]);
		values("in exec");
		return 0;
	}
	identifiers();
	id = M(semget(IPC_PRIVATE, 3, 0600));
	operations();
	order();
	interruptions();
	undo();
	M(semctl(id, 0, IPC_RMID));
	/* Many: more than fits one message of anybody's. */
	id = M(semget(IPC_PRIVATE, 20000, 0600));
	static unsigned short many[20000];
	for (int i = 0; i < 20000; i++) many[i] = i;
	T(semctl(id, 0, SETALL, (union arg){ .array = many }));
	memset(many, 0, sizeof many);
	T(semctl(id, 0, GETALL, (union arg){ .array = many }));
	printf("%d %d %d\n", many[1], many[9999], many[19999]);
	M(semctl(id, 0, IPC_RMID));
	return 0;
}
