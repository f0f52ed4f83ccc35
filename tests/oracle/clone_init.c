/* oracle: root
 * What a pid namespace's first task may not do, and what happens around it. */
#include "oracle.h"

static char stack[65536] __attribute__((aligned(64)));

static int as_init(void *arg)
{
	(void)arg;
	printf("init: getpid %d getppid %d gettid %d getsid %d getpgid %d\n", getpid(), getppid(), (int)gettid(),
	       getsid(0), getpgid(0));
	long r = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, 0L);
	if (r == 0) _exit(0);
	printf("init: CLONE_PARENT: %s\n", r == -1 ? name_of(errno) : "made");
	/* Signals without a handler do not reach init, from inside. */
	T(kill(1, SIGTERM));
	T(kill(1, SIGKILL));
	printf("init lives\n");
	pid_t c = fork();
	if (c == 0) {
		printf("child: getpid %d getppid %d\n", getpid(), getppid());
		pid_t g = fork();
		if (g == 0) {
			msleep(100);
			printf("orphan: getpid %d getppid %d\n", getpid(), getppid());
			_exit(5);
		}
		printf("child sees grandchild %d\n", g);
		_exit(4);
	}
	printf("init sees child %d\n", c);
	for (int i = 0; i < 3; i++) {
		int st = 0;
		pid_t w = wait(&st);
		if (w == -1) printf("wait: %s\n", name_of(errno));
		else printf("wait: %d %s\n", w, status_text(st));
	}
	if (fork() == 0) {
		for (;;) pause();
	}
	/* The pauser dies with the namespace. */
	return 3;
}

static int unshared(void *arg)
{
	(void)arg;
	T(unshare(CLONE_NEWPID));
	printf("after unshare: own pid changed: %s\n", getpid() == 1 ? "yes" : "no");
	/* A second pid namespace for children before the first has an init. */
	long t = syscall(SYS_clone, CLONE_THREAD | CLONE_SIGHAND | CLONE_VM, stack + sizeof stack, NULL, NULL, 0L);
	if (t == 0) syscall(SYS_exit, 0);
	printf("thread while children go elsewhere: %s\n", t == -1 ? name_of(errno) : "made");
	pid_t a = fork();
	if (a == 0) {
		printf("first child: getpid %d getppid %d\n", getpid(), getppid());
		_exit(0);
	}
	reap("first child", a);
	pid_t b = fork();
	if (b == 0) _exit(0);
	printf("fork after init is gone: %s\n", b == -1 ? name_of(errno) : "made");
	return 0;
}

static int nested(void *arg)
{
	long depth = (long)arg;
	printf("depth %ld: getpid %d getppid %d\n", depth, getpid(), getppid());
	if (depth < 3) {
		char *s = malloc(65536);
		pid_t p = clone(nested, s + 65536, CLONE_NEWPID | CLONE_NEWUTS | SIGCHLD, (void *)(depth + 1));
		printf("depth %ld: inner init is %d here\n", depth, p);
		reap("inner", p);
	}
	return depth;
}

static int hosts(void *arg)
{
	char b[65];
	(void)arg;
	T(sethostname("inner", 5));
	T(setdomainname("inner.dom", 9));
	gethostname(b, sizeof b);
	printf("inside: %s\n", b);
	T(sethostname("x", 65));
	T(sethostname("x", -1));
	T(sethostname((char *)8, 4));
	T(sethostname("", 0));
	gethostname(b, sizeof b);
	printf("inside: \"%s\"\n", b);
	return 0;
}

int main(void)
{
	char before[65], after[65];
	pid_t p = clone(as_init, stack + sizeof stack, CLONE_NEWPID | SIGCHLD, NULL);
	reap("init", p);
	p = clone(unshared, stack + sizeof stack, SIGCHLD, NULL);
	reap("unshared", p);
	p = clone(nested, stack + sizeof stack, CLONE_NEWPID | CLONE_NEWUTS | SIGCHLD, (void *)1L);
	reap("nested", p);
	gethostname(before, sizeof before);
	p = clone(hosts, stack + sizeof stack, CLONE_NEWUTS | SIGCHLD, NULL);
	reap("hosts", p);
	gethostname(after, sizeof after);
	printf("outside unchanged: %s\n", strcmp(before, after) ? "no" : "yes");
	/* Killing init from its parent ends everything inside. */
	int pipefd[2];
	M(pipe(pipefd));
	p = syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, 0L);
	if (p == 0) {
		close(pipefd[0]);
		for (int i = 0; i < 5; i++)
			if (fork() == 0)
				for (;;) pause();
		if (write(pipefd[1], "x", 1) != 1) _exit(1);
		for (;;) pause();
	}
	close(pipefd[1]);
	char c;
	printf("ready: %zd\n", read(pipefd[0], &c, 1));
	T(kill(p, SIGTERM));
	msleep(50);
	T(waitpid(p, NULL, WNOHANG));
	T(kill(p, SIGKILL));
	reap("killed init", p);
	/* End of file means that all five holders of the pipe are gone. */
	printf("after: %zd\n", read(pipefd[0], &c, 1));
	/* setns into a uts namespace kept by a descriptor, and by pidfd. */
	int home = M(open("/proc/self/ns/uts", O_RDONLY));
	M(unshare(CLONE_NEWUTS));
	M(sethostname("second", 6));
	int second = M(open("/proc/self/ns/uts", O_RDONLY));
	T(setns(home, CLONE_NEWUTS));
	gethostname(after, sizeof after);
	printf("home again: %s\n", strcmp(before, after) ? "no" : "yes");
	T(setns(second, 0));
	gethostname(after, sizeof after);
	printf("second: %s\n", after);
	T(setns(home, 0));
	return 0;
}
