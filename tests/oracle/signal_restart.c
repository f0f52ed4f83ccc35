/* oracle: user
 * signal(7), "Interruption of system calls": what each call that waits makes of a handler without and with SA_RESTART, and of a stop.
 * A signal arrives when the caller has slept for a while; 350 ms later what it waits for happens. All wait at the same time. */
#include "oracle.h"
#include <linux/futex.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/uio.h>

static volatile sig_atomic_t hits;
static void hit(int s)
{
	(void)s;
	hits++;
}

/* What a wait is about. Every wait runs in a process of its own. */
static int p[2], sv[2], fd, fd2, ep, status, number;
static pid_t waiter, helper;
static char name[32], c;
static char block[65536];
static struct { int word; sem_t sem; pthread_mutex_t mutex; pthread_cond_t cond; } *shared;
static mqd_t mq;
static struct timespec while_ = { 0, 900000000 }, far = { 5, 0 };
static struct timeval far_tv = { 5, 0 };
static struct epoll_event ev;
static sigset_t none, usr2;
static struct sockaddr_un un = { .sun_family = AF_UNIX };
static struct sockaddr_in in = { .sin_family = AF_INET };
static struct iovec iov = { &c, 1 };
static struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
static struct mmsghdr messages[1];
static struct sembuf down = { 0, -1, 0 };
static struct { long type; char text[8]; } msg = { 1, "x" };

static const char *named(const char *kind)
{
	snprintf(name, sizeof name, "%s%d", kind, number);
	return name;
}

static void a_pipe(void) { M(pipe(p)); }
static void a_full_pipe(void)
{
	M(pipe2(p, O_NONBLOCK));
	while (write(p[1], block, sizeof block) > 0)
		;
	M(fcntl(p[1], F_SETFL, 0));
}
static void a_pair(void) { M(socketpair(AF_UNIX, SOCK_STREAM, 0, sv)); }
static void a_full_pair(void)
{
	a_pair();
	while (send(sv[0], block, sizeof block, MSG_DONTWAIT) > 0)
		;
}
static void drain(int from)
{
	fcntl(from, F_SETFL, O_NONBLOCK);
	while (read(from, block, sizeof block) > 0)
		;
}
static void a_listener(void)
{
	memcpy(un.sun_path, named("sock"), sizeof name);
	fd = M(socket(AF_UNIX, SOCK_STREAM, 0));
	M(bind(fd, (void *)&un, sizeof un));
	M(listen(fd, 1));
}
static void a_tcp_listener(void)
{
	socklen_t len = sizeof in;
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = M(socket(AF_INET, SOCK_STREAM, 0));
	M(bind(fd, (void *)&in, sizeof in));
	M(getsockname(fd, (void *)&in, &len));
	M(listen(fd, 4));
}
static void a_tcp_pair(void)
{
	a_tcp_listener();
	sv[1] = M(socket(AF_INET, SOCK_STREAM, 0));
	M(connect(sv[1], (void *)&in, sizeof in));
	sv[0] = M(accept(fd, NULL, NULL));
}
static void connect_to(int family, void *to, socklen_t len)
{
	int s = socket(family, SOCK_STREAM, 0);
	if (connect(s, to, len) == 0) msleep(200);
}
static void a_fifo(void) { M(mkfifo(named("fifo"), 0600)); }
static void two_files(void)
{
	fd = M(open(named("lock"), O_CREAT | O_RDWR, 0600));
	fd2 = M(open(name, O_RDWR));
}
static struct flock whole(short type) { return (struct flock){ .l_type = type, .l_whence = SEEK_SET }; }
static void a_record_lock(void)
{
	two_files();
	a_pipe();
	if (fork() == 0) {
		struct flock l = whole(F_WRLCK);
		fcntl(fd2, F_SETLK, &l);
		M(write(p[1], "l", 1));
		msleep(500);
		_exit(0);
	}
	M(read(p[0], &c, 1));
}
static long lock_whole(int command)
{
	struct flock l = whole(F_WRLCK);
	return fcntl(fd, command, &l);
}
static void an_ofd_lock(void)
{
	struct flock l = whole(F_WRLCK);
	two_files();
	M(fcntl(fd2, F_OFD_SETLK, &l));
}
static void no_ofd_lock(void)
{
	struct flock l = whole(F_UNLCK);
	fcntl(fd2, F_OFD_SETLK, &l);
}
static void memory(void)
{
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_t m;
	pthread_condattr_t v;
	pthread_mutexattr_init(&m);
	pthread_mutexattr_setpshared(&m, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&shared->mutex, &m);
	pthread_condattr_init(&v);
	pthread_condattr_setpshared(&v, PTHREAD_PROCESS_SHARED);
	pthread_cond_init(&shared->cond, &v);
	sem_init(&shared->sem, 1, 0);
	shared->word = 1;
}
static void wake(void)
{
	shared->word = 0;
	syscall(SYS_futex, &shared->word, FUTEX_WAKE, 1, NULL, NULL, 0);
}
static struct timespec later(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	t.tv_sec += 5;
	return t;
}
static long wait_cond(void)
{
	while (shared->word) pthread_cond_wait(&shared->cond, &shared->mutex);
	return 0;
}
static void a_queue(int full)
{
	struct mq_attr a = { .mq_maxmsg = 1, .mq_msgsize = 8 };
	snprintf(name, sizeof name, "/restart%d.%d", (int)getpid(), number);
	mq = M(mq_open(name, O_CREAT | O_RDWR, 0600, &a));
	mq_unlink(name);
	if (full) M(mq_send(mq, "x", 1, 0));
}
static void messages_full(void)
{
	fd = M(msgget(IPC_PRIVATE, 0600));
	while (msgsnd(fd, &msg, 8, IPC_NOWAIT) == 0)
		;
}
static void a_terminal(void)
{
	fd = M(posix_openpt(O_RDWR | O_NOCTTY));
	M(unlockpt(fd));
	ptsname_r(fd, name, sizeof name);
	fd2 = M(open(name, O_RDWR | O_NOCTTY));
}
static void an_inotify(void)
{
	fd = M(inotify_init());
	M(mkdir(named("dir"), 0700));
	M(inotify_add_watch(fd, name, IN_CREATE));
}
static void touch(void)
{
	strcat(name, "/f");
	close(creat(name, 0600));
}
static void a_poll(void)
{
	a_pipe();
	ep = M(epoll_create1(0));
	ev = (struct epoll_event){ .events = EPOLLIN };
	M(epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &ev));
}
static long look(int how)
{
	struct pollfd pf = { p[0], POLLIN, 0 };
	fd_set set;
	FD_ZERO(&set);
	FD_SET(p[0], &set);
	switch (how) {
	case 0: return poll(&pf, 1, 5000);
	case 1: return ppoll(&pf, 1, &far, NULL);
	case 2: return ppoll(&pf, 1, &far, &none);
	case 3: return select(p[0] + 1, &set, NULL, NULL, &far_tv);
	case 4: return pselect(p[0] + 1, &set, NULL, NULL, &far, &none);
	case 5: return epoll_wait(ep, &ev, 1, 5000);
	case 6: return epoll_pwait(ep, &ev, 1, 5000, &none);
	default: return syscall(SYS_epoll_pwait2, ep, &ev, 1, &far, NULL, 0);
	}
}
static void timeouts(int socket)
{
	M(setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &far_tv, sizeof far_tv));
	M(setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &far_tv, sizeof far_tv));
}
static void a_udp(void)
{
	socklen_t len = sizeof in;
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fd = M(socket(AF_INET, SOCK_DGRAM, 0));
	M(bind(fd, (void *)&in, sizeof in));
	M(getsockname(fd, (void *)&in, &len));
}
static void a_datagram(void)
{
	memcpy(un.sun_path, named("dgram"), sizeof name);
	fd = M(socket(AF_UNIX, SOCK_DGRAM, 0));
	M(bind(fd, (void *)&un, sizeof un));
}
static void send_to(int family, void *to, socklen_t len)
{
	sendto(M(socket(family, SOCK_DGRAM, 0)), "x", 1, 0, to, len);
}
static void byte(int to)
{
	if (write(to, "x", 1) != 1) _exit(1);
}
static void arm(void)
{
	struct itimerspec t = { .it_value = { 0, 1 } };
	timerfd_settime(fd, 0, &t, NULL);
}

/* Each: what it needs, the call, what ends it (in another process). */
#define WAITS                                                                                                          \
	W(read, a_pipe(), read(p[0], &c, 1), byte(p[1]))                                                               \
	W(readv, a_pipe(), readv(p[0], &iov, 1), byte(p[1]))                                                           \
	W(write, a_full_pipe(), write(p[1], "x", 1), drain(p[0]))                                                      \
	W(writev, a_full_pipe(), writev(p[1], &iov, 1), drain(p[0]))                                                   \
	W(splice, a_pipe(); M(pipe(sv)), splice(p[0], NULL, sv[1], NULL, 1, 0), byte(p[1]))                            \
	W(read_terminal, a_terminal(), read(fd2, block, 9), M(write(fd, "x\n", 2)))                                    \
	W(read_socket, a_pair(), read(sv[0], &c, 1), byte(sv[1]))                                                      \
	W(read_inotify, an_inotify(), read(fd, block, 999) > 0 ? 0 : -1, touch())                                      \
	W(read_eventfd, fd = M(eventfd(0, 0)), read(fd, block, 8), M(eventfd_write(fd, 1)))                            \
	W(read_timerfd, fd = M(timerfd_create(CLOCK_MONOTONIC, 0)), read(fd, block, 8), arm())                         \
	W(read_signalfd, sigprocmask(SIG_BLOCK, &usr2, NULL); fd = M(signalfd(-1, &usr2, 0)), read(fd, block, 128),    \
	  kill(waiter, SIGUSR2))                                                                                       \
	W(open_fifo_to_read, a_fifo(), open(name, O_RDONLY) >= 0 ? 0 : -1, open(name, O_RDWR); msleep(200))                    \
	W(open_fifo_to_write, a_fifo(), open(name, O_WRONLY) >= 0 ? 0 : -1, open(name, O_RDWR); msleep(200))                    \
	W(wait, , wait(&status) == helper ? 0 : -1, )                                                                  \
	W(wait4, , wait4(helper, &status, 0, NULL) == helper ? 0 : -1, )                                               \
	W(waitid, , waitid(P_PID, helper, NULL, WEXITED | WNOWAIT), )                                                  \
	W(waitid_pidfd, , waitid(P_PIDFD, syscall(SYS_pidfd_open, helper, 0), NULL, WEXITED | WNOWAIT), )              \
	W(accept, a_listener(), accept(fd, NULL, NULL) > 0 ? 0 : -1, connect_to(AF_UNIX, &un, sizeof un))              \
	W(accept_timeout, a_listener(); timeouts(fd), accept(fd, NULL, NULL) > 0 ? 0 : -1,                             \
	  connect_to(AF_UNIX, &un, sizeof un))                                                                         \
	W(accept_tcp, a_tcp_listener(), accept(fd, NULL, NULL) > 0 ? 0 : -1, connect_to(AF_INET, &in, sizeof in))      \
	W(recv, a_pair(), recv(sv[0], &c, 1, 0), byte(sv[1]))                                                          \
	W(recv_timeout, a_pair(); timeouts(sv[0]), recv(sv[0], &c, 1, 0), byte(sv[1]))                                 \
	W(recvmsg, a_pair(), recvmsg(sv[0], &message, 0), byte(sv[1]))                                                 \
	W(recvmmsg, a_pair(); messages[0].msg_hdr = message, recvmmsg(sv[0], messages, 1, 0, NULL), byte(sv[1]))       \
	W(recv_tcp, a_tcp_pair(), recv(sv[0], &c, 1, 0), byte(sv[1]))                                                  \
	W(recv_tcp_timeout, a_tcp_pair(); timeouts(sv[0]), recv(sv[0], &c, 1, 0), byte(sv[1]))                         \
	W(recv_udp, a_udp(), recv(fd, &c, 1, 0), send_to(AF_INET, &in, sizeof in))                                     \
	W(recvfrom_udp, a_udp(), recvfrom(fd, &c, 1, 0, NULL, NULL), send_to(AF_INET, &in, sizeof in))                 \
	W(recv_udp_timeout, a_udp(); timeouts(fd), recv(fd, &c, 1, 0), send_to(AF_INET, &in, sizeof in))               \
	W(recv_datagram, a_datagram(), recv(fd, &c, 1, 0), send_to(AF_UNIX, &un, sizeof un))                           \
	W(send, a_full_pair(), send(sv[0], "x", 1, 0), drain(sv[1]))                                                   \
	W(send_timeout, a_full_pair(); timeouts(sv[0]), send(sv[0], "x", 1, 0), drain(sv[1]))                          \
	W(sendmsg, a_full_pair(), sendmsg(sv[0], &message, 0), drain(sv[1]))                                           \
	W(flock, two_files(); M(flock(fd2, LOCK_EX)), flock(fd, LOCK_EX), flock(fd2, LOCK_UN))                         \
	W(fcntl_setlkw, a_record_lock(), lock_whole(F_SETLKW), )                                                       \
	W(fcntl_ofd_setlkw, an_ofd_lock(), lock_whole(F_OFD_SETLKW), no_ofd_lock())                                    \
	W(mq_receive, a_queue(0), mq_receive(mq, block, 8, NULL), mq_send(mq, "x", 1, 0))                              \
	W(mq_send, a_queue(1), mq_send(mq, "x", 1, 0), mq_receive(mq, block, 8, NULL))                                 \
	W(mq_timedreceive, a_queue(0); far = later(CLOCK_REALTIME), mq_timedreceive(mq, block, 8, NULL, &far),         \
	  mq_send(mq, "x", 1, 0))                                                                                      \
	W(msgrcv, fd = M(msgget(IPC_PRIVATE, 0600)), msgrcv(fd, block, 8, 0, 0), msgsnd(fd, &msg, 8, 0); msleep(20);   \
	  msgctl(fd, IPC_RMID, NULL))                                                                                  \
	W(msgsnd, messages_full(), msgsnd(fd, &msg, 8, 0), msgrcv(fd, block, 8, 0, 0); msleep(20);                     \
	  msgctl(fd, IPC_RMID, NULL))                                                                                  \
	W(semop, fd = M(semget(IPC_PRIVATE, 1, 0600)), semop(fd, &down, 1), semctl(fd, 0, SETVAL, 1); msleep(20);      \
	  semctl(fd, 0, IPC_RMID))                                                                                     \
	W(semtimedop, fd = M(semget(IPC_PRIVATE, 1, 0600)), semtimedop(fd, &down, 1, &far),                            \
	  semctl(fd, 0, SETVAL, 1); msleep(20); semctl(fd, 0, IPC_RMID))                                               \
	W(futex, memory(), syscall(SYS_futex, &shared->word, FUTEX_WAIT, 1, NULL, NULL, 0), wake())                    \
	W(futex_timeout, memory(), syscall(SYS_futex, &shared->word, FUTEX_WAIT, 1, &far, NULL, 0), wake())            \
	W(futex_bitset, memory(); far = later(CLOCK_MONOTONIC),                                                        \
	  syscall(SYS_futex, &shared->word, FUTEX_WAIT_BITSET, 1, &far, NULL, 1), wake())                              \
	W(pthread_mutex_lock, memory(); pthread_mutex_lock(&shared->mutex), pthread_mutex_lock(&shared->mutex),        \
	  pthread_mutex_unlock(&shared->mutex))                                                                        \
	W(pthread_cond_wait, memory(); pthread_mutex_lock(&shared->mutex), wait_cond(),                                \
	  shared->word = 0; pthread_cond_signal(&shared->cond))                                                        \
	W(sem_wait, memory(), sem_wait(&shared->sem), sem_post(&shared->sem))                                          \
	W(sem_timedwait, memory(); far = later(CLOCK_REALTIME), sem_timedwait(&shared->sem, &far),                     \
	  sem_post(&shared->sem))                                                                                      \
	W(pause, , pause(), kill(waiter, SIGUSR1))                                                                     \
	W(sigsuspend, , sigsuspend(&none), kill(waiter, SIGUSR1))                                                      \
	W(sigtimedwait, , sigtimedwait(&usr2, NULL, &while_), )                                                        \
	W(sigwaitinfo, sigprocmask(SIG_BLOCK, &usr2, NULL), sigwaitinfo(&usr2, NULL), kill(waiter, SIGUSR2))           \
	W(nanosleep, , nanosleep(&while_, NULL), )                                                                     \
	W(clock_nanosleep, , clock_nanosleep(CLOCK_MONOTONIC, 0, &while_, NULL) == EINTR, )                            \
	W(clock_nanosleep_abs, far = later(CLOCK_MONOTONIC); far.tv_sec -= 4,                                          \
	  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &far, NULL) == EINTR, )                                      \
	W(poll, a_pipe(), look(0), byte(p[1]))                                                                         \
	W(ppoll, a_pipe(), look(1), byte(p[1]))                                                                        \
	W(ppoll_mask, a_pipe(), look(2), byte(p[1]))                                                                   \
	W(select, a_pipe(), look(3), byte(p[1]))                                                                       \
	W(pselect_mask, a_pipe(), look(4), byte(p[1]))                                                                 \
	W(epoll_wait, a_poll(), look(5), byte(p[1]))                                                                   \
	W(epoll_pwait_mask, a_poll(), look(6), byte(p[1]))                                                             \
	W(epoll_pwait2, a_poll(), look(7), byte(p[1]))

#define W(name, needs, call, end)                         \
	static void name##_needs(void) { needs; }         \
	static long name##_call(void) { return (call); }  \
	static void name##_end(void) { end; }
WAITS
#undef W

static const struct { const char *name; void (*needs)(void); long (*call)(void); void (*end)(void); } waits[] = {
#define W(name, needs, call, end) { #name, name##_needs, name##_call, name##_end },
	WAITS
};
#define COUNT (sizeof waits / sizeof *waits)

/* Whether the caller sleeps, in its call most likely. */
static int sleeps(void)
{
	char name[64], text[512];
	snprintf(name, sizeof name, "/proc/%d/stat", waiter);
	int fd = open(name, O_RDONLY);
	long n = read(fd, text, sizeof text - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	char *end = strrchr(text, ')');
	return end && end[2] == 'S';
}

/* In a process of its own: one wait, whose result goes to `out`. */
static void run(unsigned i, int way, int out)
{
	struct sigaction sa = { .sa_handler = hit, .sa_flags = way == 1 ? SA_RESTART : 0 };
	M(dup2(out, 1));
	number = i * 3 + way;
	waiter = getpid();
	sigaction(SIGUSR1, &sa, NULL);
	waits[i].needs();
	helper = M(fork());
	if (helper == 0) {
		for (int calm = 0, looks = 0; calm < 4 && looks < 200; looks++) {
			msleep(75);
			calm = sleeps() ? calm + 1 : 0;
		}
		kill(waiter, way == 2 ? SIGSTOP : SIGUSR1);
		if (way == 2) {
			msleep(50);
			kill(waiter, SIGCONT);
		}
		msleep(350);
		waits[i].end();
		_exit(0);
	}
	errno = 0;
	long r = waits[i].call();
	if (r == -1) printf("%s: %s", waits[i].name, name_of(errno));
	else printf("%s: %ld", waits[i].name, r);
	printf(", handler ran %d\n", hits);
	fflush(stdout);
	while (wait(NULL) != -1 || errno == EINTR)
		;
	_exit(0);
}

int main(void)
{
	static const char *const ways[] = { "without SA_RESTART", "with SA_RESTART", "stopped and continued" };
	int out[COUNT];
	sigemptyset(&none);
	sigemptyset(&usr2);
	sigaddset(&usr2, SIGUSR2);
	for (int way = 0; way < 3; way++) {
		printf("%s\n", ways[way]);
		for (unsigned i = 0; i < COUNT; i++) {
			/* Inside, a stop does not end them. */
			if (way == 2 && strncmp(waits[i].name, "sem", 3) == 0 && strstr(waits[i].name, "op")) {
				out[i] = -1;
				continue;
			}
			out[i] = M(memfd_create("out", 0));
			if (M(fork()) == 0) run(i, way, out[i]);
		}
		while (wait(NULL) != -1)
			;
		for (unsigned i = 0; i < COUNT; i++) {
			char line[200];
			if (out[i] < 0) continue;
			long n = pread(out[i], line, sizeof line, 0);
			printf("  %.*s", n > 0 ? (int)n : 0, line);
			close(out[i]);
		}
	}
	return 0;
}
