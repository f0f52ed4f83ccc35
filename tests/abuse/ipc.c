/* IPC objects in hostile hands: a segment that may only be read, objects of another namespace, floods, forged sleeps. */
#include "abuse.h"
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#define FD_SOCK 1025

static struct slot *slot;
static uintptr_t site;

/* A request that the shim did not make. */
static long forge(uint32_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
	uint64_t args[6] = { a, b, c, d, e, f };
	slot->nr = nr;
	memcpy(slot->args, args, sizeof args);
	slot->ret = 0;
	if (raw6(GATE, 1, 0, GATE_MAGIC, 0, 0, 0)) return -1;
	return slot->ret;
}

static int take_fd(void)
{
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(8 * sizeof(int))];
	} control;
	char byte[8];
	struct iovec iov = { byte, sizeof byte };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
	if (shim6(site, SYS_recvmsg, FD_SOCK, (long)&m, MSG_DONTWAIT, 0, 0, 0) < 0 || m.msg_controllen < sizeof(struct cmsghdr)) return -1;
	return *(int *)CMSG_DATA(&control.header);
}

static void reader(int id)
{
	slot = own_slots();
	site = shim_call_site();
	if (!slot || !site) {
		printf("no slot\n");
		return;
	}
	if (forge(SYS_shmat, id, 0, 0, 0, 0, 0) >= 0) printf("ESCAPED: attached for writing\n");
	long r = forge(SYS_shmat, id, 0, SHM_RDONLY, 0, 0, 0);
	int fd = r >= 0 ? take_fd() : -1;
	printf("descriptor %s\n", fd >= 0 ? "taken" : "not taken");
	if (fd < 0) return;
	char p[64];
	sprintf(p, "/proc/self/fd/%d", fd);
	if (open(p, O_RDWR) >= 0) printf("ESCAPED: opened again for writing\n");
	if (open(p, O_RDONLY | O_TRUNC) >= 0) printf("ESCAPED: truncated\n");
	if (ftruncate(fd, 0) == 0 || truncate(p, 0) == 0) printf("ESCAPED: made smaller\n");
	if (fallocate(fd, 3, 0, 4096) == 0) printf("ESCAPED: a hole\n");
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0) printf("ESCAPED: sealed\n");
	if (write(fd, "EVIL", 4) == 4) printf("ESCAPED: written\n");
	if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED) printf("ESCAPED: mapped for writing\n");
	void *m = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	if (m != MAP_FAILED && mprotect(m, 4096, PROT_READ | PROT_WRITE) == 0) printf("ESCAPED: made writable\n");
	/* Sleeps that nobody has begun, and ones that are left. */
	int sem = semget(IPC_PRIVATE, 2, 0600);
	for (int phase = 0; phase < 6; phase++)
		for (uint32_t nr = 65; nr < 72; nr++) forge(nr, sem, 6ull << 32, 0, 0, 0, phase);
	for (int i = 0; i < 3000; i++) forge(64 + rng() % 8, rng() % 3 ? (uint64_t)sem : rng(), rng(), rng() % 40, rng(), rng() % 3, rng() % 5);
	struct sembuf takes = { 0, -1, 0 };
	memcpy(slot->data, &takes, sizeof takes);
	for (int i = 0; i < 3000; i++) forge(SYS_semop, sem, (uint64_t)sizeof takes << 32, 1, 0, 0, 0);
	if (semctl(sem, 0, GETNCNT) > 1) printf("ESCAPED: %d sleep, one thread\n", semctl(sem, 0, GETNCNT));
}

static void flood(void)
{
	long n[4] = { 0 };
	while (n[0] < 100000 && semget(IPC_PRIVATE, 32000, 0600) >= 0) n[0]++;
	printf("semaphores: %ld arrays, then %s\n", n[0] > 0 ? 1L : 0, strerrorname_np(errno));
	while (n[1] < 100000 && shmget(IPC_PRIVATE, 1ul << 30, 0600) >= 0) n[1]++;
	printf("segments, then %s\n", strerrorname_np(errno));
	static struct { long type; char text[8192]; } m = { 1, "" };
	for (; n[2] < 40000; n[2]++) {
		int q = msgget(IPC_PRIVATE, 0600);
		if (q < 0 || msgsnd(q, &m, sizeof m.text, IPC_NOWAIT) || msgsnd(q, &m, sizeof m.text, IPC_NOWAIT)) break;
	}
	printf("messages, then %s\n", strerrorname_np(errno));
	char name[32];
	do snprintf(name, sizeof name, "/flood-%ld", n[3]);
	while (n[3]++ < 100000 && mq_open(name, O_RDWR | O_CREAT, 0600, NULL) >= 0);
	printf("queues, then %s\n", strerrorname_np(errno));
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "flood")) {
		flood();
		printf("tried\n");
		return 0;
	}
	int id = shmget(IPC_PRIVATE, 4096, 0644);
	char *p = shmat(id, NULL, 0);
	strcpy(p, "kept");
	pid_t child = fork();
	if (child == 0) {
		if (setgid(1000) || setuid(1000)) printf("setuid: %s\n", strerror(errno));
		reader(id);
		fflush(stdout);
		_exit(0);
	}
	reap_within(child, 20000);
	child = fork();
	if (child == 0) {
		if (unshare(CLONE_NEWIPC)) printf("unshare: %s\n", strerror(errno));
		if (shmat(id, NULL, 0) != (void *)-1) printf("ESCAPED: a segment of another namespace\n");
		struct shmid_ds ds;
		if (shmctl(id, IPC_STAT, &ds) == 0) printf("ESCAPED: looked into another namespace\n");
		fflush(stdout);
		_exit(0);
	}
	reap_within(child, 20000);
	if (strcmp(p, "kept")) printf("ESCAPED: the segment says %s\n", p);
	printf("tried\n");
	return 0;
}
