/* oracle: user root
 * Calls on another process by its number: priority, scheduling, affinity, I/O priority, limits, memory, robust list. */
#include "oracle.h"
#include <linux/ioprio.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <grp.h>

static pid_t sleeper(void)
{
	pid_t p = fork();
	if (p == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;) pause();
	}
	return p;
}

struct attr {
	uint32_t size, sched_policy;
	uint64_t sched_flags;
	int32_t sched_nice;
	uint32_t sched_priority;
	uint64_t sched_runtime, sched_deadline, sched_period;
	uint32_t sched_util_min, sched_util_max;
};
static char secret[16] = "a secret";
#define NOBODY 0x3ffffff

int main(void)
{
	pid_t p = sleeper();
	/* getpriority and setpriority */
	T(getpriority(PRIO_PROCESS, p));
	T(setpriority(PRIO_PROCESS, p, 5));
	T(getpriority(PRIO_PROCESS, p));
	T(setpriority(PRIO_PROCESS, p, 100));
	T(getpriority(PRIO_PROCESS, p));
	T(getpriority(PRIO_PROCESS, NOBODY));
	T(setpriority(PRIO_PROCESS, NOBODY, 1));
	T(getpriority(PRIO_PROCESS, -1));
	T(getpriority(7, 0));
	T(setpriority(7, 0, 0));
	T(getpriority(PRIO_PGRP, NOBODY));
	T(setpriority(PRIO_PGRP, NOBODY, 1));
	T(getpriority(PRIO_USER, 54321));
	M(setpgid(p, p));
	T(getpriority(PRIO_PGRP, p));
	pid_t q = sleeper();
	M(setpgid(q, p));
	T(setpriority(PRIO_PROCESS, q, 7));
	T(getpriority(PRIO_PGRP, p));
	T(setpriority(PRIO_PGRP, p, 19));
	T(getpriority(PRIO_PGRP, p));
	T(getpriority(PRIO_PROCESS, q));

	/* Scheduling policy */
	struct sched_param sp = { 0 };
	p = sleeper();
	T(sched_getscheduler(p));
	T(sched_setscheduler(p, SCHED_BATCH, &sp));
	T(sched_getscheduler(p));
	sp.sched_priority = 5;
	T(sched_setscheduler(p, SCHED_OTHER, &sp));
	T(sched_setparam(p, &sp));
	sp.sched_priority = 0;
	T(sched_setscheduler(p, 77, &sp));
	T(sched_setscheduler(q, SCHED_IDLE, &sp));
	T(sched_getscheduler(q));
	T(sched_setscheduler(p, SCHED_OTHER, NULL));
	T(sched_setparam(p, NULL));
	T(sched_setparam(p, &sp));
	sp.sched_priority = 9;
	T(sched_getparam(p, &sp));
	printf("priority %d\n", sp.sched_priority);
	T(sched_getparam(p, NULL));
	T(sched_getparam(NOBODY, &sp));
	T(sched_getparam(-1, &sp));
	T(sched_getscheduler(NOBODY));
	T(sched_getscheduler(-1));
	struct timespec ts = { 9, 9 };
	T(sched_rr_get_interval(p, &ts));
	printf("seconds %ld\n", (long)ts.tv_sec);
	T(sched_rr_get_interval(NOBODY, &ts));
	T(sched_rr_get_interval(-1, &ts));
	struct attr at = { 0 };
	T(syscall(SYS_sched_getattr, p, &at, sizeof at, 0));
	printf("size %u policy %u nice %d\n", at.size, at.sched_policy, at.sched_nice);
	at.sched_nice = 3;
	at.sched_policy = SCHED_BATCH;
	T(syscall(SYS_sched_setattr, p, &at, 0));
	memset(&at, 0, sizeof at);
	T(syscall(SYS_sched_getattr, p, &at, sizeof at, 0));
	printf("policy %u nice %d\n", at.sched_policy, at.sched_nice);
	T(syscall(SYS_sched_getattr, p, &at, 8, 0));
	T(syscall(SYS_sched_getattr, p, &at, sizeof at, 1));
	T(syscall(SYS_sched_getattr, NOBODY, &at, sizeof at, 0));
	T(syscall(SYS_sched_setattr, p, &at, 1));
	T(syscall(SYS_sched_setattr, NOBODY, &at, 0));
	T(sched_getscheduler(getpid()));

	/* Affinity */
	cpu_set_t set, back;
	CPU_ZERO(&set);
	CPU_SET(0, &set);
	T(sched_setaffinity(p, sizeof set, &set));
	T(sched_getaffinity(p, sizeof back, &back));
	printf("cpu 0 only: %d\n", CPU_COUNT(&back) == 1 && CPU_ISSET(0, &back));
	CPU_ZERO(&set);
	T(sched_setaffinity(p, sizeof set, &set));
	T(syscall(SYS_sched_getaffinity, p, 1, &back));
	T(syscall(SYS_sched_getaffinity, p, 12, &back));
	T(sched_getaffinity(NOBODY, sizeof back, &back));
	T(sched_setaffinity(NOBODY, sizeof back, &back));

	/* I/O priority */
	T(syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, p));
	T(syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, p, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 6)));
	T(syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, p));
	T(syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, p, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)));
	T(syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, p));
	T(syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, p, IOPRIO_PRIO_VALUE(5, 1)));
	T(syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, NOBODY));
	T(syscall(SYS_ioprio_get, IOPRIO_WHO_PGRP, NOBODY));
	T(syscall(SYS_ioprio_get, 9, 0));
	T(syscall(SYS_ioprio_set, 9, 0, 0));
	M(setpgid(p, p));
	T(syscall(SYS_ioprio_get, IOPRIO_WHO_PGRP, p));
	T(syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, getpid()));

	/* Limits of another */
	struct rlimit l = { 11, 22 }, old;
	T(prlimit(p, RLIMIT_NOFILE, &l, NULL));
	T(prlimit(p, RLIMIT_NOFILE, NULL, &old));
	printf("%ld %ld\n", (long)old.rlim_cur, (long)old.rlim_max);
	l.rlim_cur = 33;
	T(prlimit(p, RLIMIT_NOFILE, &l, NULL));
	T(prlimit(p, 99, NULL, &old));
	T(prlimit(NOBODY, RLIMIT_NOFILE, NULL, &old));

	/* Memory */
	char buf[16] = "";
	struct iovec here = { buf, sizeof buf }, there = { secret, sizeof secret };
	T(process_vm_readv(p, &here, 1, &there, 1, 0));
	printf("%s\n", buf);
	strcpy(buf, "overwritten");
	T(process_vm_writev(p, &here, 1, &there, 1, 0));
	memset(buf, 0, sizeof buf);
	T(process_vm_readv(p, &here, 1, &there, 1, 0));
	printf("%s, here still %s\n", buf, secret);
	T(process_vm_readv(p, &here, 1, &there, 1, 1));
	T(process_vm_readv(NOBODY, &here, 1, &there, 1, 0));
	there.iov_base = (void *)8;
	T(process_vm_readv(p, &here, 1, &there, 1, 0));
	here.iov_base = (void *)8;
	there.iov_base = secret;
	T(process_vm_readv(p, &here, 1, &there, 1, 0));
	T(process_vm_readv(p, &here, 1, &there, 2000, 0));
	T(process_vm_readv(p, NULL, 0, &there, 1, 0));

	/* Robust list */
	void *head = NULL;
	size_t len = 0;
	T(syscall(SYS_get_robust_list, NOBODY, &head, &len));
	T(syscall(SYS_get_robust_list, 0, &head, &len));
	printf("own %d\n", head != NULL);
	T(syscall(SYS_get_robust_list, getpid(), &head, &len));

	/* Thread name by proc, and only within the thread group. */
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/task/%d/comm", getpid(), getpid());
	put_file(path, "named\n", 0600);
	prctl(PR_GET_NAME, buf);
	printf("PR_GET_NAME %s\n", buf);
	snprintf(path, sizeof path, "/proc/%d/comm", p);
	int fd = T(open(path, O_WRONLY) >= 0) ? open(path, O_WRONLY) : -1;
	T(write(fd, "x", 1));
	close(fd);

	/* Process memory reaping: only of the dying. */
	int pf = M(syscall(SYS_pidfd_open, p, 0));
	T(syscall(SYS_process_mrelease, pf, 1));
	T(syscall(SYS_process_mrelease, pf, 0));
	T(syscall(SYS_process_mrelease, 0, 0));

	/* Another user's */
	if (getuid() == 0) {
		pid_t mine = sleeper();
		CHILD("as another user", {
			M(setgroups(0, NULL));
			M(setresgid(12345, 12345, 12345));
			M(setresuid(12345, 12345, 12345));
			sp.sched_priority = 0;
			T(getpriority(PRIO_PROCESS, mine));
			T(setpriority(PRIO_PROCESS, mine, 10));
			T(sched_getscheduler(mine));
			T(sched_setscheduler(mine, SCHED_BATCH, &sp));
			T(sched_setparam(mine, &sp));
			T(sched_setaffinity(mine, sizeof back, &back));
			T(sched_getaffinity(mine, sizeof back, &back) >= 0);
			T(syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, mine));
			T(syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, mine, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 5)));
			T(prlimit(mine, RLIMIT_NOFILE, NULL, &old));
			here.iov_base = buf;
			T(process_vm_readv(mine, &here, 1, &there, 1, 0));
			T(syscall(SYS_get_robust_list, mine, &head, &len));
			T(syscall(SYS_kcmp, getpid(), mine, 0, 0, 0));
			int other = syscall(SYS_pidfd_open, mine, 0);
			T(syscall(SYS_pidfd_getfd, other, 0, 0));
			T(syscall(SYS_pidfd_send_signal, other, SIGTERM, NULL, 0));
			T(syscall(SYS_migrate_pages, mine, 0, NULL, NULL));
			T(getpriority(PRIO_USER, 0));
			T(setpriority(PRIO_USER, 0, 4));
			T(getpriority(PRIO_USER, 12345));
			T(nice(0));
		});
		kill(mine, SIGKILL);
	}
	kill(p, SIGKILL);
	while (waitpid(p, NULL, 0) == -1 && errno == EINTR)
		;
	T(getpriority(PRIO_PROCESS, p));
	T(sched_getscheduler(p));
	T(process_vm_readv(p, &here, 1, &there, 1, 0));
	kill(q, SIGKILL);
	return 0;
}
