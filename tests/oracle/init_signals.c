/* oracle: root
 * Signals to the init of a pid namespace that has no handler for them: what it blocks stays until it takes it, and does nothing if it
 * lets it in; what it does not block never comes. As number 1 itself the program shows the same without a namespace of its own. */
#include "oracle.h"
#include <sys/epoll.h>
#include <sys/signalfd.h>

static sigset_t set_of(int n, ...)
{
	sigset_t s;
	va_list ap;
	sigemptyset(&s);
	va_start(ap, n);
	while (n--) sigaddset(&s, va_arg(ap, int));
	va_end(ap);
	return s;
}

/* A child that sends a signal to init after a while. */
static void child_sends(int ms, int sig)
{
	pid_t c = fork();
	if (c == 0) {
		msleep(ms);
		_exit(kill(1, sig) == 0 ? 0 : errno);
	}
}

static void gone(void)
{
	int st;
	while (waitpid(-1, &st, 0) > 0) printf("sender: %s\n", status_text(st));
}

static void pending(const char *when)
{
	sigset_t p;
	sigpending(&p);
	printf("pending %s: TERM %d USR1 %d RT %d\n", when, sigismember(&p, SIGTERM), sigismember(&p, SIGUSR1),
	       sigismember(&p, SIGRTMIN));
}

static int ran;
static void handler(int s)
{
	ran = s;
}

static int as_init(void *arg)
{
	(void)arg;
	sigset_t set = set_of(4, SIGTERM, SIGUSR1, SIGRTMIN, SIGCHLD), old;
	struct timespec none = { 0, 0 }, soon = { 0, 50000000 };
	siginfo_t info;

	T(kill(1, SIGTERM));
	T(sigprocmask(SIG_BLOCK, &set, &old));
	pending("after one that was not blocked");
	T(kill(1, SIGTERM));
	T(kill(1, SIGTERM));
	T(sigqueue(1, SIGRTMIN, (union sigval){ .sival_int = 1 }));
	T(sigqueue(1, SIGRTMIN, (union sigval){ .sival_int = 2 }));
	T(kill(1, SIGKILL));
	T(kill(1, SIGSTOP));
	pending("behind the mask");
	for (int i = 0; i < 4; i++) {
		int s = sigtimedwait(&set, &info, &none);
		printf("sigtimedwait: %s pid %d value %d\n", s < 0 ? name_of(errno) : s == SIGRTMIN ? "RTMIN" : sigabbrev_np(s),
		       s > 0 ? info.si_pid : 0, s == SIGRTMIN ? info.si_value.sival_int : 0);
	}

	child_sends(50, SIGTERM);
	int s = sigwaitinfo(&set, &info);
	printf("sigwaitinfo: %s from a child: %s\n", sigabbrev_np(s), info.si_pid > 1 ? "yes" : "no");
	gone();
	while (sigtimedwait(&set, &info, &none) > 0)
		;

	sigset_t only = set_of(1, SIGUSR1);
	int fd = M(signalfd(-1, &only, SFD_CLOEXEC));
	struct pollfd p = { fd, POLLIN, 0 };
	child_sends(50, SIGUSR1);
	T(poll(&p, 1, 2000));
	struct signalfd_siginfo r;
	T(read(fd, &r, sizeof r));
	printf("signalfd: %s\n", sigabbrev_np(r.ssi_signo));
	gone();

	/* Let in without a handler: nothing happens, and what sleeps goes on sleeping. */
	T(kill(1, SIGTERM));
	T(kill(1, SIGUSR1));
	T(sigprocmask(SIG_SETMASK, &old, NULL));
	pending("let in");
	T(sigprocmask(SIG_BLOCK, &set, &old));
	while (sigtimedwait(&set, &info, &none) > 0)
		;
	child_sends(20, SIGTERM);
	T(ppoll(NULL, 0, &soon, &old));
	gone();
	child_sends(20, SIGUSR1);
	T(epoll_pwait(M(epoll_create1(0)), &(struct epoll_event){ 0 }, 1, 50, &old));
	gone();
	T(sigprocmask(SIG_SETMASK, &old, NULL));
	child_sends(20, SIGTERM);
	struct timespec left = { 0, 0 };
	T(nanosleep(&soon, &left));
	gone();
	child_sends(20, SIGTERM);
	T(poll(NULL, 0, 50));
	gone();

	/* A handler that comes to be while it waits runs. */
	T(sigprocmask(SIG_BLOCK, &set, NULL));
	T(kill(1, SIGTERM));
	signal(SIGTERM, handler);
	T(sigprocmask(SIG_SETMASK, &old, NULL));
	printf("handler ran: %d\n", ran == SIGTERM);
	signal(SIGTERM, SIG_DFL);
	T(kill(1, SIGTERM));
	/* Ignored and blocked. */
	signal(SIGUSR1, SIG_IGN);
	T(sigprocmask(SIG_BLOCK, &set, NULL));
	T(kill(1, SIGUSR1));
	pending("ignored and blocked");
	T(sigprocmask(SIG_SETMASK, &old, NULL));

	/* A child is no init: what it has inherited as blocked ends it when it lets it in. */
	T(sigprocmask(SIG_BLOCK, &set, NULL));
	CHILD("child with TERM let in", {
		raise(SIGTERM);
		sigprocmask(SIG_SETMASK, &old, NULL);
		printf("not reached\n");
	});
	printf("init ends\n");
	return 5;
}

static char stack[65536] __attribute__((aligned(64)));

int main(void)
{
	if (getpid() == 1) return as_init(NULL);
	pid_t c = M(clone(as_init, stack + sizeof stack, CLONE_NEWPID | SIGCHLD, NULL));
	reap("init", c);
	return 0;
}
