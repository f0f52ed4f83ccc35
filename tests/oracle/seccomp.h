/* Filters for the oracle programs about seccomp(2): small ones, written out. */
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>

#ifndef SECCOMP_FILTER_FLAG_TSYNC_ESRCH
#define SECCOMP_FILTER_FLAG_TSYNC_ESRCH 16
#endif

#define NR offsetof(struct seccomp_data, nr)
#define ARCH offsetof(struct seccomp_data, arch)
#define IP offsetof(struct seccomp_data, instruction_pointer)
#define ARG(n) (offsetof(struct seccomp_data, args) + 8 * (n))
#define LD(at) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at)
#define JEQ(k, t, f) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, k, t, f)
#define RET(k) BPF_STMT(BPF_RET | BPF_K, k)

#define PROGRAM(name, ...)                                                        \
	struct sock_filter name##_code[] = { __VA_ARGS__ };                       \
	struct sock_fprog name = { sizeof name##_code / sizeof *name##_code, name##_code }

static inline long seccomp(unsigned op, unsigned flags, void *args)
{
	return syscall(SYS_seccomp, op, flags, args);
}

static inline void no_new_privs(void)
{
	M(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

/* From now on the call has this action. */
static inline long on(int nr, unsigned action)
{
	PROGRAM(p, LD(NR), JEQ(nr, 0, 1), RET(action), RET(SECCOMP_RET_ALLOW));
	return seccomp(SECCOMP_SET_MODE_FILTER, 0, &p);
}

/* The lines of /proc/self/status about filters. */
static inline void print_status(const char *what)
{
	char line[256];
	FILE *f = fopen("/proc/thread-self/status", "r");
	printf("%s:", what);
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, "Seccomp", 7) || !strncmp(line, "NoNewPrivs", 10)) {
			line[strcspn(line, "\n")] = 0;
			line[strcspn(line, "\t")] = ' ';
			printf(" %s", line);
		}
	printf("\n");
	if (f) fclose(f);
}
