/* oracle: user
 * A process that has made no system call since its fork but a read: what others read of it in /proc. Its maker may have ended, or
 * run another program, meanwhile. */
#include "oracle.h"

static int to_child[2], from_maker[2];

/* Waits for the end of the pipe, as the only thing it does. */
static void stay(void)
{
	char c;
	while (read(to_child[0], &c, 1) == 1)
		;
	_exit(7);
}

static void look(const char *what, pid_t pid)
{
	char path[64], text[4096];
	static const char *const names[] = { "fd/9", "cwd", "exe", "root", "status", "limits", "fdinfo/9" };
	char here[4096];
	M(getcwd(here, sizeof here) ? 0 : -1);
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
		snprintf(path, sizeof path, "/proc/%d/%s", pid, names[i]);
		long n;
		if (i < 4) {
			n = readlink(path, text, sizeof text - 1);
			text[n < 0 ? 0 : n] = 0;
			char *base = strrchr(text, '/');
			printf("%s: %s: %s\n", what, names[i], n < 0 ? name_of(errno) : strcmp(text, here) == 0 ? "here" : base && base[1] ? base + 1 : text);
		} else {
			int fd = open(path, O_RDONLY);
			n = fd < 0 ? -1 : read(fd, text, sizeof text);
			printf("%s: %s: %s\n", what, names[i], n < 0 ? name_of(errno) : n > 0 ? "text" : "empty");
			close(fd);
		}
	}
	snprintf(path, sizeof path, "/proc/%d/fd/9", pid);
	int fd = open(path, O_RDONLY);
	printf("%s: opening its descriptor: %s\n", what, fd < 0 ? name_of(errno) : "ok");
	close(fd);
}

/* A maker makes a process, whose parent is ours with CLONE_PARENT, says its number, and does as told. */
static pid_t made(int flags, void (*then)(void), pid_t *maker)
{
	M(pipe(from_maker));
	*maker = M(fork());
	if (*maker == 0) {
		pid_t pid = syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
		if (pid == 0)
			stay();
		M(write(from_maker[1], &pid, sizeof pid));
		close(to_child[1]);
		if (then)
			then();
		stay();
	}
	pid_t pid;
	M(read(from_maker[0], &pid, sizeof pid));
	close(from_maker[0]);
	close(from_maker[1]);
	return pid;
}

static void ends(void)
{
	_exit(3);
}

static void runs_another(void)
{
	execlp("sleep", "sleep", "30", NULL);
	_exit(99);
}

int main(void)
{
	pid_t maker;
	put_file("file", "text", 0644);
	M(dup2(M(open("file", O_RDONLY)), 9));

	M(pipe2(to_child, O_CLOEXEC));
	pid_t own = M(fork());
	if (own == 0) {
		close(to_child[1]);
		stay();
	}
	look("own child", own);
	close(to_child[1]);
	reap("own child", own);
	close(to_child[0]);

	M(pipe2(to_child, O_CLOEXEC));
	pid_t sibling = made(CLONE_PARENT, ends, &maker);
	reap("its maker", maker);
	look("made with CLONE_PARENT", sibling);
	T(kill(sibling, SIGTERM));
	reap("made with CLONE_PARENT", sibling);
	close(to_child[0]);
	close(to_child[1]);

	M(pipe2(to_child, O_CLOEXEC));
	sibling = made(CLONE_PARENT, runs_another, &maker);
	msleep(100);
	look("whose maker runs another program", sibling);
	T(kill(maker, SIGKILL));
	reap("its maker", maker);
	T(kill(sibling, SIGKILL));
	reap("whose maker runs another program", sibling);
	close(to_child[0]);
	close(to_child[1]);

	M(pipe2(to_child, O_CLOEXEC));
	pid_t orphan = made(0, ends, &maker);
	reap("its maker", maker);
	look("orphan", orphan);
	T(kill(orphan, SIGTERM));
	close(to_child[0]);
	close(to_child[1]);
	return 0;
}
