/* oracle: user root
 * System V message queues: types, lengths, order, signals, limits. */
#include "oracle.h"
#include <limits.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#ifndef MSG_COPY
#define MSG_COPY 040000
#endif

/* As T, but prints a while later: who made the call possible prints first. */
#define LATE(call)                                                               \
	({                                                                       \
		errno = 0;                                                       \
		long late_r = (long)(call);                                      \
		int late_e = errno;                                              \
		msleep(100);                                                     \
		printf("%s: %ld %s\n", #call, late_r, late_r < 0 ? name_of(late_e) : ""); \
	})

struct text {
	long type;
	char text[70000];
};

static int id;

static long send_text(long type, const char *text, int flags)
{
	static struct text m;
	m.type = type;
	strcpy(m.text, text);
	return msgsnd(id, &m, strlen(text) + 1, flags);
}
static void get(long type, size_t room, int flags)
{
	static struct text m;
	memset(&m, 0, sizeof m);
	errno = 0;
	long n = msgrcv(id, &m, room, type, flags);
	printf("get %ld in %zu with %o: %ld %s type %ld \"%s\"\n", type, room, flags, n, n < 0 ? name_of(errno) : "", m.type, m.text);
}
static void handler(int sig)
{
	(void)sig;
}
static struct msqid_ds stat_of(void)
{
	struct msqid_ds ds;
	M(msgctl(id, IPC_STAT, &ds));
	return ds;
}

static void types(void)
{
	T(send_text(3, "three", 0));
	T(send_text(1, "one", 0));
	T(send_text(2, "two", 0));
	T(send_text(1, "another one", 0));
	T(send_text(0, "zero", 0));
	T(send_text(-1, "minus", 0));
	struct msqid_ds ds = stat_of();
	printf("%lu messages, %lu bytes, at most %lu, sent by me %d, received by %d\n", ds.msg_qnum, ds.__msg_cbytes, ds.msg_qbytes,
	       ds.msg_lspid == getpid(), ds.msg_lrpid);
	get(0, 100, MSG_COPY | IPC_NOWAIT);
	get(3, 100, MSG_COPY | IPC_NOWAIT);
	get(4, 100, MSG_COPY | IPC_NOWAIT);
	get(0, 100, MSG_COPY);
	get(0, 100, MSG_COPY | IPC_NOWAIT | MSG_EXCEPT);
	get(-2, 100, IPC_NOWAIT);
	get(1, 3, IPC_NOWAIT);
	get(1, 3, IPC_NOWAIT | MSG_NOERROR);
	get(3, 100, IPC_NOWAIT | MSG_EXCEPT);
	get(5, 100, IPC_NOWAIT);
	get(0, 100, IPC_NOWAIT);
	get(0, 100, IPC_NOWAIT);
	get(LONG_MIN, 100, IPC_NOWAIT);
	ds = stat_of();
	printf("%lu messages, %lu bytes, received by me %d, times %d %d\n", ds.msg_qnum, ds.__msg_cbytes, ds.msg_lrpid == getpid(),
	       labs(ds.msg_stime - time(NULL)) < 10, labs(ds.msg_rtime - time(NULL)) < 10);
	struct text m = { 1, "" };
	T(msgsnd(id, &m, -1, 0));
	T(msgsnd(id, &m, 65000, IPC_NOWAIT));
	T(msgsnd(id, &m, 0, 0));
	T(msgsnd(id, (void *)8, 1, 0));
	T(msgrcv(id, &m, -1, 0, 0));
	T(msgrcv(id, &m, 0, 0, 0));
	T(msgsnd(-1, &m, 0, 0));
	T(msgrcv(-1, &m, 0, 0, 0));
}

static void sleeping(void)
{
	struct sigaction sa = { .sa_handler = handler, .sa_flags = SA_RESTART };
	int out[2];
	M(pipe(out));
	/* In the order in which they came, each what it wants. */
	for (int i = 0; i < 4; i++) {
		if (fork() == 0) {
			static struct text m;
			long n = msgrcv(id, &m, 2, i < 3 ? 1 : -7, 0);
			dprintf(out[1], "%c%ld%s ", "abcd"[i], n, n < 0 ? name_of(errno) : "");
			_exit(0);
		}
		msleep(60);
	}
	char line[100] = "";
	long have = 0;
	T(send_text(1, "x", 0));
	while (have < 3) have += M(read(out[0], line + have, 90 - have));
	T(send_text(1, "too long", 0));
	while (!strchr(line, 'd')) have += M(read(out[0], line + have, 90 - have));
	msleep(50);
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	long more = read(out[0], line + have, 90 - have);
	if (more > 0) have += more;
	printf("first %.2s, %s\n", line, strstr(line, "E2BIG") ? "the others E2BIG" : "?");
	while (wait(NULL) > 0)
		;
	get(0, 100, IPC_NOWAIT);

	pid_t p = fork();
	if (p == 0) {
		sigaction(SIGUSR1, &sa, NULL);
		get(9, 10, 0);
		signal(SIGUSR2, SIG_IGN);
		get(9, 10, 0);
		get(9, 10, 0);
		_exit(0);
	}
	msleep(100);
	kill(p, SIGUSR1);
	msleep(100);
	kill(p, SIGUSR2);
	msleep(50);
	kill(p, SIGSTOP);
	int st;
	waitpid(p, &st, WUNTRACED);
	kill(p, SIGCONT);
	msleep(50);
	M(send_text(9, "nine", 0));
	msleep(100);
	M(msgctl(id, IPC_RMID, NULL));
	reap("receiver", p);
	id = M(msgget(IPC_PRIVATE, 0600));

	/* A queue that is full. */
	struct msqid_ds ds = stat_of();
	ds.msg_qbytes = 10;
	T(msgctl(id, IPC_SET, &ds));
	T(send_text(1, "123456789", 0));
	T(send_text(1, "", IPC_NOWAIT));
	p = fork();
	if (p == 0) {
		sigaction(SIGUSR1, &sa, NULL);
		T(send_text(2, "interrupted", 0));
		LATE(send_text(2, "second", 0));
		_exit(0);
	}
	msleep(100);
	kill(p, SIGUSR1);
	msleep(100);
	get(0, 100, 0);
	reap("sender", p);
	get(0, 100, 0);
	T(send_text(1, "123456789", 0));
	p = fork();
	if (p == 0) {
		LATE(send_text(2, "never", 0));
		_exit(0);
	}
	msleep(100);
	T(msgctl(id, IPC_RMID, NULL));
	reap("sender", p);
	get(0, 100, 0);
	id = M(msgget(IPC_PRIVATE, 0600));
}

int main(void)
{
	key_t key = 0x4d000000 | (getpid() & 0xffffff);
	T(msgget(key, 0600));
	id = OK(msgget(key, 0620 | IPC_CREAT | IPC_EXCL));
	T(msgget(key, 0600 | IPC_CREAT | IPC_EXCL));
	printf("same %d\n", msgget(key, 0600) == id);
	struct msqid_ds ds = stat_of();
	printf("key %d uid %d gid %d mode %o %lu %lu %d %d\n", ds.msg_perm.__key == key, ds.msg_perm.uid == getuid(), ds.msg_perm.gid == getgid(),
	       ds.msg_perm.mode, ds.msg_qnum, ds.msg_qbytes, ds.msg_lspid, ds.msg_lrpid);
	ds.msg_perm.mode = 0666;
	ds.msg_qbytes = 1 << 20;
	if (getuid()) T(msgctl(id, IPC_SET, &ds));
	ds.msg_qbytes = 16384;
	T(msgctl(id, IPC_SET, &ds));
	printf("mode %o\n", stat_of().msg_perm.mode);
	T(msgctl(id, 99, &ds));
	T(msgctl(-1, IPC_STAT, &ds));
	T(msgctl(id, IPC_STAT, (void *)8));
	struct msginfo info;
	OK(msgctl(0, IPC_INFO, (void *)&info));
	printf("pool %d map %d max %d mnb %d mni %d ssz %d tql %d seg %d\n", info.msgpool, info.msgmap, info.msgmax, info.msgmnb, info.msgmni,
	       info.msgssz, info.msgtql, info.msgseg);
	types();
	sleeping();
	/* Much through it. */
	pid_t p = fork();
	if (p == 0) {
		static struct text m = { 1, "" };
		for (int i = 0; i < 500; i++) {
			m.type = i % 3 + 1;
			memset(m.text, i, 8000);
			M(msgsnd(id, &m, i * 16, 0));
		}
		_exit(0);
	}
	static struct text m;
	long bad = 0, sum = 0;
	for (int i = 0; i < 500; i++) {
		long n = M(msgrcv(id, &m, 8192, 0, 0));
		bad += n != i * 16 || m.type != i % 3 + 1 || (n && m.text[n - 1] != (char)i);
		sum += n;
	}
	reap("sender", p);
	printf("%ld bytes, %ld bad\n", sum, bad);
	T(msgctl(id, IPC_RMID, NULL));
	return 0;
}
