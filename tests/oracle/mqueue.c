/* oracle: user root
 * POSIX message queues: names, sizes, priorities, polling, sleeping, notification, limits. */
#include "oracle.h"
#include <mqueue.h>
#include <pthread.h>
#include <sys/epoll.h>

static char name[64], other[64];

static void handler(int sig)
{
	(void)sig;
}
static mqd_t make(int flags, long maxmsg, long msgsize)
{
	struct mq_attr a = { .mq_maxmsg = maxmsg, .mq_msgsize = msgsize };
	return mq_open(name, flags | O_CREAT, 0600, &a);
}
static void attr(mqd_t q)
{
	struct mq_attr a;
	M(mq_getattr(q, &a));
	printf("flags %lo max %ld size %ld now %ld\n", a.mq_flags, a.mq_maxmsg, a.mq_msgsize, a.mq_curmsgs);
}
static void get(mqd_t q)
{
	char text[64] = "";
	unsigned prio = 77;
	errno = 0;
	long n = mq_receive(q, text, sizeof text, &prio);
	printf("get: %ld %s \"%s\" of %u\n", n, n < 0 ? name_of(errno) : "", text, prio);
}
static long put(mqd_t q, const char *text, unsigned prio)
{
	return mq_send(q, text, strlen(text) + 1, prio);
}
static void polled(mqd_t q)
{
	struct pollfd p = { q, POLLIN | POLLOUT, 0 };
	long n = poll(&p, 1, 0);
	printf("poll: %ld%s%s\n", n, p.revents & POLLIN ? " in" : "", p.revents & POLLOUT ? " out" : "");
}

static void names(void)
{
	T(mq_open(name, O_RDWR));
	T(mq_open("noslash", O_RDWR));
	T(mq_open("/", O_RDWR | O_CREAT, 0600, NULL));
	T(mq_open("/a/b", O_RDWR | O_CREAT, 0600, NULL));
	char longname[400] = "/";
	memset(longname + 1, 'x', 300);
	T(mq_open(longname, O_RDWR | O_CREAT, 0600, NULL));
	T(mq_unlink(name));
	umask(022);
	mqd_t q = OK(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0666, NULL));
	attr(q);
	struct stat st;
	M(fstat(q, &st));
	printf("close on exec %d\n", fcntl(q, F_GETFD));
	T(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0666, NULL));
	OK(mq_open(name, O_RDWR | O_CREAT, 0666, NULL));
	T(mq_open(name, 3));
	T(make(O_EXCL, 10, 10));
	T(mq_unlink(name));
	T(mq_unlink(name));
	T(make(O_RDWR, 0, 10));
	T(make(O_RDWR, 10, 0));
	T(make(O_RDWR, -1, 10));
	T(make(O_RDWR, 100000, 10));
	T(make(O_RDWR, 10, 1 << 25));
	if (getuid()) T(make(O_RDWR, 11, 10));
	if (getuid()) T(make(O_RDWR, 10, 8193));
	/* Without a name it lives on. */
	T(put(q, "hidden", 0));
	char big[8192];
	T(mq_receive(q, big, sizeof big, NULL));
	T(mq_close(q));
	T(mq_close(q));
	T(put(q, "gone", 0));
	int fds[2];
	M(pipe(fds));
	T(put(fds[1], "a pipe", 0));
	T(mq_receive(fds[0], big, sizeof big, NULL));
	struct mq_attr a;
	T(mq_getattr(fds[0], &a));
	close(fds[0]);
	close(fds[1]);
}

static void messages(void)
{
	mqd_t q = make(O_RDWR | O_NONBLOCK, 4, 32);
	polled(q);
	attr(q);
	get(q);
	T(put(q, "low", 1));
	polled(q);
	T(put(q, "high", 9));
	T(put(q, "low again", 1));
	T(put(q, "highest", 32767));
	polled(q);
	T(put(q, "too many", 0));
	T(put(q, "bad priority", 32768));
	T(put(q, "too long too long too long too long", 0));
	attr(q);
	char text[64];
	T(mq_receive(q, text, 31, NULL));
	get(q);
	polled(q);
	get(q);
	get(q);
	get(q);
	polled(q);
	get(q);
	struct mq_attr a = { .mq_flags = 0 }, old;
	T(mq_setattr(q, &a, &old));
	printf("was %lo\n", old.mq_flags);
	attr(q);
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	T(mq_timedreceive(q, text, 64, NULL, &t));
	t.tv_nsec = 1000000000;
	T(mq_timedreceive(q, text, 64, NULL, &t));
	clock_gettime(CLOCK_REALTIME, &t);
	struct timespec from = t, now;
	t.tv_nsec += 60000000;
	if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
	T(mq_timedreceive(q, text, 64, NULL, &t));
	clock_gettime(CLOCK_REALTIME, &now);
	long ms = (now.tv_sec - from.tv_sec) * 1000 + (now.tv_nsec - from.tv_nsec) / 1000000;
	printf("in time %d\n", ms >= 59 && ms < 2000);
	a.mq_flags = O_APPEND;
	T(mq_setattr(q, &a, NULL));
	a.mq_flags = O_NONBLOCK;
	T(mq_setattr(q, &a, NULL));
	printf("native flags %o\n", fcntl(q, F_GETFL) & (O_NONBLOCK | O_ACCMODE));
	mqd_t r = mq_open(name, O_RDONLY), w = mq_open(name, O_WRONLY);
	T(put(r, "x", 0));
	T(mq_receive(w, text, 64, NULL));
	T(put(w, "by another", 3));
	mqd_t d = dup(r);
	mq_close(r);
	get(d);
	mq_close(d);
	mq_close(w);
	/* epoll, and a child that inherits. */
	int ep = epoll_create1(0);
	struct epoll_event ev = { .events = EPOLLIN };
	T(epoll_ctl(ep, EPOLL_CTL_ADD, q, &ev));
	T(epoll_wait(ep, &ev, 1, 0));
	pid_t p = fork();
	if (p == 0) {
		put(q, "from the child", 0);
		_exit(0);
	}
	T(epoll_wait(ep, &ev, 1, 5000));
	reap("child", p);
	get(q);
	close(ep);
	mq_close(q);
	mq_unlink(name);
}

static void sleeping(void)
{
	struct sigaction restart = { .sa_handler = handler, .sa_flags = SA_RESTART }, plain = { .sa_handler = handler };
	mqd_t q = make(O_RDWR, 1, 32);
	pid_t p = fork();
	if (p == 0) {
		sigaction(SIGUSR1, &plain, NULL);
		get(q);
		sigaction(SIGUSR1, &restart, NULL);
		get(q);
		_exit(0);
	}
	msleep(100);
	kill(p, SIGUSR1);
	msleep(100);
	kill(p, SIGUSR1);
	msleep(100);
	M(put(q, "restarted", 0));
	reap("receiver", p);
	M(put(q, "first", 0));
	p = fork();
	if (p == 0) {
		M(put(q, "second", 5));
		_exit(0);
	}
	msleep(100);
	get(q);
	reap("sender", p);
	get(q);
	/* Killed in its sleep, it takes nothing. */
	p = fork();
	if (p == 0) {
		get(q);
		_exit(0);
	}
	msleep(100);
	kill(p, SIGKILL);
	reap("killed", p);
	M(put(q, "for the living", 0));
	get(q);
	mq_close(q);
	mq_unlink(name);
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static int called;

static void thread(union sigval v)
{
	pthread_mutex_lock(&lock);
	called = v.sival_int;
	pthread_cond_signal(&cond);
	pthread_mutex_unlock(&lock);
}

static void notification(void)
{
	mqd_t q = make(O_RDWR | O_NONBLOCK, 4, 32);
	sigset_t set;
	siginfo_t info;
	struct timespec second = { 2, 0 }, none = { 0, 50000000 };
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 4711 };
	T(mq_notify(q, &ev));
	T(mq_notify(q, &ev));
	CHILD("another", T(mq_notify(q, &ev)));
	pid_t p = fork();
	if (p == 0) {
		put(q, "ring", 0);
		_exit(0);
	}
	T(sigtimedwait(&set, &info, &second));
	printf("code %d pid %d uid %d value %d\n", info.si_code, info.si_pid == p, info.si_uid == getuid(), info.si_value.sival_int);
	reap("sender", p);
	T(put(q, "not told", 0));
	T(sigtimedwait(&set, &info, &none));
	T(mq_notify(q, &ev));
	T(put(q, "not empty", 0));
	T(sigtimedwait(&set, &info, &none));
	T(mq_notify(q, NULL));
	get(q);
	get(q);
	get(q);
	T(mq_notify(q, &ev));
	T(mq_notify(q, NULL));
	T(put(q, "nobody", 0));
	T(sigtimedwait(&set, &info, &none));
	get(q);
	ev.sigev_signo = 65;
	T(mq_notify(q, &ev));
	ev.sigev_notify = 9;
	T(mq_notify(q, &ev));
	ev.sigev_notify = SIGEV_NONE;
	T(mq_notify(q, &ev));
	T(put(q, "silent", 0));
	ev.sigev_notify = SIGEV_SIGNAL;
	ev.sigev_signo = SIGUSR1;
	T(mq_notify(q, &ev));
	T(mq_notify(q, NULL));
	/* Whoever is registered and ends, or closes, is registered no more. */
	CHILD("registered", T(mq_notify(q, &ev)));
	T(mq_notify(q, &ev));
	mqd_t again = mq_open(name, O_RDONLY);
	mq_close(q);
	T(mq_notify(again, &ev));
	T(mq_notify(again, NULL));
	get(again);
	struct sigevent te = { .sigev_notify = SIGEV_THREAD, .sigev_notify_function = thread, .sigev_value.sival_int = 17 };
	T(mq_notify(again, &te));
	q = mq_open(name, O_WRONLY);
	T(put(q, "for a thread", 0));
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 5;
	pthread_mutex_lock(&lock);
	while (!called && pthread_cond_timedwait(&cond, &lock, &until) == 0)
		;
	printf("thread was called with %d\n", called);
	pthread_mutex_unlock(&lock);
	mq_close(q);
	mq_close(again);
	mq_unlink(name);
}

static void limits(void)
{
	struct rlimit r = { 200000, 200000 };
	if (getuid()) {
		CHILD("RLIMIT_MSGQUEUE", {
			M(setrlimit(RLIMIT_MSGQUEUE, &r));
			OK(mq_open(name, O_RDWR | O_CREAT, 0600, NULL));
			OK(mq_open(other, O_RDWR | O_CREAT, 0600, NULL));
			char third[80];
			snprintf(third, sizeof third, "%s3", name);
			T(mq_open(third, O_RDWR | O_CREAT, 0600, NULL));
			M(mq_unlink(other));
			OK(mq_open(third, O_RDWR | O_CREAT, 0600, NULL));
			M(mq_unlink(third));
		});
		mq_unlink(name);
	}
	/* Much through it. */
	mqd_t q = make(O_RDWR, 3, 8192);
	static char text[8192];
	pid_t p = fork();
	if (p == 0) {
		for (int i = 0; i < 300; i++) {
			memset(text, i, sizeof text);
			M(mq_send(q, text, i * 27, i % 5));
		}
		_exit(0);
	}
	long sum = 0, bad = 0;
	for (int i = 0; i < 300; i++) {
		unsigned prio;
		long n = M(mq_receive(q, text, sizeof text, &prio));
		sum += n;
		bad += n % 27 || n / 27 % 5 != prio || (n && text[n - 1] != (char)(n / 27));
	}
	reap("sender", p);
	printf("%ld bytes, %ld bad\n", sum, bad);
	mq_close(q);
	mq_unlink(name);
}

int main(void)
{
	snprintf(name, sizeof name, "/oracle-%d", getpid());
	snprintf(other, sizeof other, "/other-%d", getpid());
	names();
	messages();
	sleeping();
	notification();
	limits();
	return 0;
}
