/* oracle: user root
 * A process that forks again and again: each child is what its parent was at that moment, is found by everybody at once, and what stands
 * against a fork stands against the next one. */
#include "oracle.h"
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define MANY 12

static int ends(pid_t pid)
{
	int status;
	M(waitpid(pid, &status, 0));
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Forks children that say nothing, so that the next forks are like those before. */
static void silently(int count)
{
	for (int i = 0; i < count; i++) {
		pid_t pid = M(fork());
		if (pid == 0) _exit(i);
		if (ends(pid) != i) printf("child %d ended otherwise\n", i);
	}
}

static int status_of(pid_t pid, const char *key)
{
	char path[64], line[256];
	int value = -1;
	snprintf(path, sizeof path, "/proc/%d/status", pid);
	FILE *f = fopen(path, "r");
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, key, strlen(key))) value = atoi(line + strlen(key));
	if (f) fclose(f);
	return value;
}

/* A child that waits for a byte, as everybody sees it. */
static void seen(const char *what)
{
	for (int i = 0; i < MANY; i++) {
		int go[2];
		M(pipe(go));
		pid_t pid = M(fork());
		if (pid == 0) {
			char c;
			close(go[1]);
			_exit(read(go[0], &c, 1));
		}
		close(go[0]);
		int alive = kill(pid, 0) == 0, own = status_of(pid, "PPid:") == getpid(), group = getpgid(pid) == getpgrp(), session = getsid(pid) == getsid(0);
		int itself = status_of(pid, "Pid:") == pid;
		M(write(go[1], "x", 1));
		close(go[1]);
		int code = ends(pid);
		if (!alive || !own || !group || !session || !itself || code != 1 || kill(pid, 0) == 0)
			printf("%s %d: alive %d parent %d group %d session %d itself %d code %d\n", what, i, alive, own, group, session, itself, code);
	}
	printf("%s: seen\n", what);
}

/* What a child finds itself to be. */
static void itself(const char *what)
{
	pid_t parent = getpid();
	fflush(stdout);
	for (int i = 0; i < MANY; i++) {
		pid_t pid = M(fork());
		if (pid == 0) {
			char cwd[4096] = "";
			mode_t mask = umask(0);
			if (!getcwd(cwd, sizeof cwd)) strcpy(cwd, "?");
			if (i % 4 == 3) {
				printf("%s: parent %d pid %d dir %s umask %o uid %d gid %d nice %d group %d\n", what, getppid() == parent, getpid() != parent,
				       strrchr(cwd, '/') ? strrchr(cwd, '/') : cwd, mask, getuid() == 1234, getgid() == 1234, getpriority(PRIO_PROCESS, 0),
				       getpgrp() == getpgid(parent));
				fflush(stdout);
			}
			_exit(7);
		}
		if (ends(pid) != 7) printf("%s: %d ended otherwise\n", what, i);
	}
}

static void killed(void)
{
	int right = 0;
	for (int i = 0; i < MANY; i++) {
		pid_t pid = M(fork());
		if (pid == 0)
			for (;;) pause();
		M(kill(pid, SIGTERM));
		right += ends(pid) == -SIGTERM;
	}
	printf("killed: %d\n", right);
}

/* Children that have children, and leave them behind. */
static void families(void)
{
	int right = 0, adopted = 0;
	M(prctl(PR_SET_CHILD_SUBREAPER, 1));
	for (int i = 0; i < MANY; i++) {
		pid_t pid = M(fork());
		if (pid == 0) {
			silently(3);
			if (fork() == 0) {
				usleep(1000);
				_exit(5);
			}
			_exit(3);
		}
		right += ends(pid) == 3;
		int status;
		adopted += wait(&status) > 0 && WEXITSTATUS(status) == 5;
	}
	printf("families: %d, adopted %d, none left %d\n", right, adopted, wait(NULL) == -1 && errno == ECHILD);
	M(prctl(PR_SET_CHILD_SUBREAPER, 0));
}

static void executed(void)
{
	int right = 0;
	for (int i = 0; i < MANY; i++) {
		pid_t pid = M(fork());
		if (pid == 0) {
			execl("/bin/sh", "sh", "-c", "exit $1", "sh", i & 1 ? "1" : "0", NULL);
			_exit(99);
		}
		right += ends(pid) == (i & 1);
	}
	printf("executed: %d\n", right);
}

static void refused(void)
{
	struct rlimit old, none = { 0, 0 };
	M(getrlimit(RLIMIT_NPROC, &old));
	pid_t pid = M(fork());
	if (pid == 0) {
		silently(MANY);
		if (getuid() == 0) M(setuid(1234));
		M(setrlimit(RLIMIT_NPROC, &none));
		for (int i = 0; i < 3; i++) {
			pid_t child = fork();
			if (child == 0) _exit(0);
			printf("no more: %s\n", child < 0 ? name_of(errno) : "made");
			if (child > 0) ends(child);
		}
		fflush(stdout);
		_exit(0);
	}
	printf("refused: %d\n", ends(pid));
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	M(mkdir("start", 0755));
	M(chdir("start"));
	silently(3 * MANY);
	seen("at first");
	itself("at first");
	M(mkdir("below", 0755));
	M(chdir("below"));
	silently(5);
	itself("elsewhere");
	umask(027);
	itself("masked");
	silently(5);
	M(setpriority(PRIO_PROCESS, 0, 3));
	itself("nicer");
	silently(5);
	M(setpgid(0, 0));
	itself("own group");
	seen("own group");
	killed();
	families();
	executed();
	silently(5);
	refused();
	if (getuid() == 0) {
		silently(5);
		M(setgid(1234));
		M(setuid(1234));
		itself("another user");
		seen("another user");
	}
	return 0;
}
