/* oracle: user
 * CLONE_*_SETTID, CLEARTID, VFORK, VM, FILES, FS and PARENT as seen from both sides. */
#include "oracle.h"
#include <linux/futex.h>

static char stack[4][65536] __attribute__((aligned(64)));
static volatile int shared, ctid, ptid;
static pid_t main_pid;

static int stores(void *arg)
{
	(void)arg;
	printf("child: *ctid is my tid: %s\n", ctid == gettid() ? "yes" : "no");
	printf("child: *ptid is my tid: %s\n", ptid == gettid() ? "yes" : "no");
	shared = 1;
	return 0;
}

static int slow(void *arg)
{
	(void)arg;
	msleep(150);
	shared++;
	return 9;
}

static int changes(void *arg)
{
	(void)arg;
	close(9);
	if (chdir("/")) return 1;
	umask(077);
	return 0;
}

static int sibling(void *arg)
{
	(void)arg;
	printf("sibling's parent is main: %s\n", getppid() == main_pid ? "yes" : "no");
	return 11;
}

static int thread_main(void *arg)
{
	(void)arg;
	printf("thread: same pid %s, same tid %s\n", getpid() == main_pid ? "yes" : "no",
	       gettid() == main_pid ? "yes" : "no");
	return 0;
}

static void settid(const char *what, unsigned long flags)
{
	ctid = ptid = -1;
	shared = 0;
	pid_t p = clone(stores, stack[0] + 65536, flags | SIGCHLD, NULL, &ptid, NULL, &ctid);
	reap(what, p);
	printf("parent: ptid %s, ctid %s, shared %d\n", ptid == p ? "set" : "unset",
	       ctid == p ? "set" : ctid == 0 ? "cleared" : "unset", shared);
}

int main(void)
{
	int st;
	main_pid = getpid();
	settid("fork", 0);
	settid("parent_settid", CLONE_PARENT_SETTID);
	settid("child_settid", CLONE_CHILD_SETTID);
	settid("both", CLONE_PARENT_SETTID | CLONE_CHILD_SETTID);
	settid("vm both", CLONE_VM | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID);
	settid("vm cleartid", CLONE_VM | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID);

	shared = 0;
	pid_t p = clone(slow, stack[0] + 65536, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
	printf("vfork waited: shared %d\n", shared);
	reap("vfork", p);
	p = clone(slow, stack[0] + 65536, CLONE_VFORK | SIGCHLD, NULL);
	printf("vfork without vm: shared %d\n", shared);
	reap("vfork without vm", p);
	/* Killed by SIGKILL, a vfork parent does not wait on. */
	pid_t v = fork();
	if (v == 0) {
		clone(slow, stack[1] + 65536, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
		_exit(1);
	}
	msleep(30);
	T(kill(v, SIGKILL));
	reap("killed vfork parent", v);

	int flagset[] = { 0, CLONE_FILES, CLONE_FS, CLONE_FILES | CLONE_FS };
	for (int i = 0; i < 4; i++) {
		char cwd[4096];
		int home = M(open(".", O_RDONLY | O_DIRECTORY));
		dup2(0, 9);
		umask(022);
		p = clone(changes, stack[0] + 65536, flagset[i] | SIGCHLD, NULL);
		reap("changes", p);
		if (!getcwd(cwd, sizeof cwd)) cwd[0] = 0;
		printf("%d: fd 9 %s, cwd %s, umask %03o\n", i, fcntl(9, F_GETFD) == -1 ? "closed" : "open",
		       strcmp(cwd, "/") ? "kept" : "/", umask(022));
		M(fchdir(home));
		close(home);
		close(9);
	}

	/* CLONE_PARENT: the new task is ours, not our child's. */
	pid_t mid = fork();
	if (mid == 0) {
		clone(sibling, stack[2] + 65536, CLONE_PARENT | SIGCHLD, NULL);
		_exit(10);
	}
	int sum = 0;
	int ended = 0;
	while (wait(&st) > 0) {
		ended++;
		sum += WEXITSTATUS(st);
	}
	printf("%d children ended, sum %d\n", ended, sum);
	T(wait(NULL));

	/* A bare thread: CLEARTID wakes a futex waiter. */
	ctid = 1;
	long t = clone(thread_main, stack[3] + 65536,
		       CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
			       CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID,
		       NULL, NULL, NULL, &ctid);
	int seen;
	while ((seen = ctid) != 0) syscall(SYS_futex, &ctid, FUTEX_WAIT, seen, NULL, NULL, 0);
	printf("thread made: %s, cleared\n", t > 0 ? "yes" : "no");
	T(waitpid(t, NULL, __WALL));

	/* Exit signals: none, and one that is not SIGCHLD, need __WALL or __WCLONE. */
	p = clone(slow, stack[0] + 65536, 0, NULL);
	T(waitpid(p, &st, 0));
	printf("__WCLONE: %s\n", waitpid(p, &st, __WCLONE) == p ? status_text(st) : name_of(errno));
	signal(SIGUSR1, SIG_IGN);
	p = clone(slow, stack[0] + 65536, SIGUSR1, NULL);
	T(waitpid(p, &st, 0));
	printf("__WALL: %s\n", waitpid(p, &st, __WALL) == p ? status_text(st) : name_of(errno));
	return 0;
}
