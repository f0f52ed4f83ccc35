/* oracle: user root
 * Who a thread is, asked again after everything that may change it. */
#include "oracle.h"
#include <pthread.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>

static void who(const char *what)
{
	for (int i = 0; i < 2; i++) {
		uid_t r, e, s;
		gid_t rg, eg, sg;
		M(getresuid(&r, &e, &s));
		M(getresgid(&rg, &eg, &sg));
		printf("%s: uid %s euid %s gid %s egid %s as said %d\n", what, getuid() == 0 ? "0" : getuid() == 65534 ? "none" : "other",
		       geteuid() == 0 ? "0" : geteuid() == 65534 ? "none" : "other", getgid() == 0 ? "0" : getgid() == 65534 ? "none" : "other",
		       getegid() == 0 ? "0" : getegid() == 65534 ? "none" : "other", r == getuid() && e == geteuid() && rg == getgid() && eg == getegid());
	}
	fflush(stdout);
}

static void in_child(const char *what, int (*change)(void))
{
	pid_t pid = M(fork());
	if (pid == 0) {
		who(what);
		int done = change();
		printf("%s: %s\n", what, done ? name_of(errno) : "ok");
		who(what);
		pid_t below = M(fork());
		if (below == 0) {
			who("its child");
			execl("/proc/self/exe", "own_ids", "executed", NULL);
			_exit(1);
		}
		M(waitpid(below, NULL, 0));
		_exit(0);
	}
	M(waitpid(pid, NULL, 0));
}

static int real_user(void) { return setuid(1234); }
static int effective_user(void) { return seteuid(1234); }
static int back(void) { return seteuid(1234) || seteuid(0); }
static int groups(void) { return setresgid(1234, 1235, 1236); }
static int both(void) { return setreuid(1234, 1235); }
static int of_files(void) { return setfsuid(1234) < 0; }

static int user_namespace(void)
{
	return unshare(CLONE_NEWUSER);
}

static void *thread(void *unused)
{
	if (geteuid() == 0) M(syscall(SYS_setresuid, 1234, 1234, 1234));
	who("other thread");
	return unused;
}

int main(int argc, char **argv)
{
	(void)argv;
	if (argc > 1) {
		who("executed");
		return 0;
	}
	who("at first");
	in_child("setuid", real_user);
	in_child("seteuid", effective_user);
	in_child("and back", back);
	in_child("setresgid", groups);
	in_child("setreuid", both);
	in_child("setfsuid", of_files);
	/* Somebody else says later who it is there. */
	int pair[2];
	M(pipe(pair));
	int ready[2];
	M(pipe(ready));
	pid_t pid = M(fork());
	if (pid == 0) {
		char c;
		int done = user_namespace();
		if (!done) who("new user namespace");
		M(write(ready[1], done ? "n" : "y", 1));
		M(read(pair[0], &c, 1));
		if (!done) who("mapped");
		_exit(0);
	}
	char there = 'n';
	M(read(ready[0], &there, 1));
	if (there == 'y') {
		char path[64], map[64];
		snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
		int fd = M(open(path, O_WRONLY));
		snprintf(map, sizeof map, "0 %d 1", getuid());
		M(write(fd, map, strlen(map)));
		close(fd);
	}
	M(write(pair[1], "g", 1));
	M(waitpid(pid, NULL, 0));
	pthread_t other;
	pthread_create(&other, NULL, thread, NULL);
	pthread_join(other, NULL);
	who("this thread");
	return 0;
}
