/* oracle: user
 * Resource limits, priorities, affinity, times and what /proc says about oneself. */
#include "oracle.h"
#include <sys/times.h>
#include <sys/utsname.h>

static void field(const char *file, const char *key)
{
	char line[512];
	FILE *f = fopen(file, "r");
	if (!f) {
		printf("%s: %s\n", file, name_of(errno));
		return;
	}
	while (fgets(line, sizeof line, f))
		if (!strncmp(line, key, strlen(key))) printf("%s", line);
	fclose(f);
}
static int pid_field(const char *key)
{
	char line[512];
	int v = -1;
	FILE *f = fopen("/proc/self/status", "r");
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, key, strlen(key))) v = atoi(line + strlen(key));
	if (f) fclose(f);
	return v;
}

int main(int argc, char **argv)
{
	(void)argc;
	struct rlimit r, old;
	M(getrlimit(RLIMIT_NOFILE, &old));
	r.rlim_cur = 100;
	r.rlim_max = 200;
	T(setrlimit(RLIMIT_NOFILE, &r));
	T(getrlimit(RLIMIT_NOFILE, &r));
	printf("%ld %ld\n", (long)r.rlim_cur, (long)r.rlim_max);
	r.rlim_max = 300;
	T(setrlimit(RLIMIT_NOFILE, &r));
	r.rlim_cur = 250;
	r.rlim_max = 200;
	T(setrlimit(RLIMIT_NOFILE, &r));
	T(getrlimit(99, &r));
	CHILD("inherited", { M(getrlimit(RLIMIT_NOFILE, &r)); printf("%ld %ld\n", (long)r.rlim_cur, (long)r.rlim_max); });
	T(syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &r));
	T(syscall(SYS_prlimit64, 0x3ffffff, RLIMIT_NOFILE, NULL, &r));
	pid_t c = fork();
	if (c == 0)
		for (;;) pause();
	r.rlim_cur = r.rlim_max = 50;
	T(syscall(SYS_prlimit64, c, RLIMIT_NOFILE, &r, NULL));
	T(syscall(SYS_prlimit64, c, RLIMIT_NOFILE, NULL, &r));
	printf("%ld\n", (long)r.rlim_cur);
	kill(c, SIGKILL);
	reap("child", c);
	CHILD("NPROC", {
		r.rlim_cur = r.rlim_max = 1;
		T(setrlimit(RLIMIT_NPROC, &r));
		if (getuid()) T(fork());
	});
	CHILD("CPU", {
		r.rlim_cur = 1;
		r.rlim_max = 2;
		setrlimit(RLIMIT_CPU, &r);
		for (volatile long i = 0;; i++)
			;
	});
	field("/proc/self/limits", "Max open files");
	printf("Pid %d PPid %d Tgid %d Threads %d Uid %d Gid %d\n", pid_field("Pid:") == getpid(), pid_field("PPid:") == getppid(),
	       pid_field("Tgid:") == getpid(), pid_field("Threads:"), pid_field("Uid:") == (int)getuid(), pid_field("Gid:") == (int)getgid());
	field("/proc/self/status", "Name:");
	field("/proc/self/status", "State:");
	field("/proc/self/status", "TracerPid:");
	field("/proc/self/status", "Umask:");
	field("/proc/self/comm", "");
	char b[4096];
	int fd = M(open("/proc/self/cmdline", O_RDONLY));
	long n = read(fd, b, sizeof b);
	printf("cmdline is argv[0] %d\n", n == (long)strlen(argv[0]) + 1 && !strcmp(b, argv[0]));
	fd = M(open("/proc/self/stat", O_RDONLY));
	n = read(fd, b, sizeof b - 1);
	b[n > 0 ? n : 0] = 0;
	int pid, ppid, pgrp, sess;
	char comm[64], state;
	printf("stat fields %d", sscanf(b, "%d (%63[^)]) %c %d %d %d", &pid, comm, &state, &ppid, &pgrp, &sess));
	printf(" right %d\n", pid == getpid() && ppid == getppid() && pgrp == getpgrp() && sess == getsid(0));
	int words = 0;
	for (char *p = b; *p; p++) words += *p == ' ';
	printf("stat has %d fields\n", words + 1);
	snprintf(b, sizeof b, "/proc/%d/task/%d/comm", getpid(), getpid());
	field(b, "");
	T(access("/proc/1/status", R_OK));
	T(access("/proc/self/ns/uts", F_OK));
	T(open("/proc/self/comm", O_WRONLY));
	T(write(3 + 2, "renamed-by-proc", 15));
	field("/proc/self/comm", "");
	T(access("/proc/self/maps", R_OK));
	T(access("/proc/thread-self/status", R_OK));
	T(access("/proc/sys/kernel/hostname", R_OK));
	T(access("/proc/999999999", F_OK));
	T(readlink("/proc/self", b, sizeof b) > 0);
	T(mkdir("/proc/x", 0755));
	T(unlink("/proc/self/comm"));
	T(open("/proc/version", O_RDONLY) > 0);
	T(getpriority(PRIO_PROCESS, 0));
	T(getpriority(PRIO_PROCESS, 0x3ffffff));
	cpu_set_t set;
	T(sched_getaffinity(0, sizeof set, &set) >= 0);
	T(sched_getscheduler(0));
	T(sched_yield());
	struct utsname u;
	T(uname(&u));
	printf("%s %s\n", u.sysname, u.machine);
	gethostname(b, sizeof b);
	printf("gethostname is nodename %d\n", !strcmp(b, u.nodename));
	struct rusage ru;
	T(getrusage(RUSAGE_SELF, &ru));
	T(getrusage(RUSAGE_CHILDREN, &ru));
	printf("children used time %d\n", ru.ru_utime.tv_sec * 1000000 + ru.ru_utime.tv_usec > 100000);
	T(getrusage(99, &ru));
	struct tms tm;
	T(times(&tm) != -1);
	T(getpgid(0) == getpgrp());
	T(syscall(SYS_gettid) == getpid());
	T(syscall(9999));
	T(syscall(SYS_getcpu, NULL, NULL, NULL));
	return 0;
}
