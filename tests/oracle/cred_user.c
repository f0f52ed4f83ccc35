/* oracle: user
 * What an ordinary user may do to its identity. */
#include "oracle.h"
#include <linux/capability.h>
#include <sys/prctl.h>
#include <grp.h>

static const char *who(uid_t u) { return u == 0 ? "0" : u == getuid() ? "me" : "other"; }
static void show(const char *what)
{
	uid_t r, e, s;
	gid_t gr, ge, gs;
	getresuid(&r, &e, &s);
	getresgid(&gr, &ge, &gs);
	printf("%s: uid %s %s %s gid %d %d\n", what, who(r), who(e), who(s), gr == ge, ge == gs);
}
static void caps(void)
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct d[2];
	T(syscall(SYS_capget, &h, d));
	printf("effective %x%08x permitted %x%08x inheritable %x%08x\n", d[1].effective, d[0].effective, d[1].permitted,
	       d[0].permitted, d[1].inheritable, d[0].inheritable);
	d[0].permitted = 1;
	T(syscall(SYS_capset, &h, d));
	h.version = 0;
	T(syscall(SYS_capget, &h, NULL));
	printf("preferred version %x\n", h.version);
}

int main(void)
{
	uid_t me = getuid();
	gid_t mine = getgid();
	show("start");
	caps();
	T(setuid(0));
	T(setuid(me));
	T(seteuid(0));
	T(setreuid(me, 0));
	T(setreuid(me, me));
	T(setreuid(-1, -1));
	T(setresuid(-1, -1, -1));
	T(setresuid(me, me, me));
	T(setresuid(me, 0, me));
	T(setresuid(me + 1, -1, -1));
	T(setgid(0));
	T(setgid(mine));
	T(setregid(0, -1));
	T(setresgid(mine, mine, mine));
	T(setresgid(0, 0, 0));
	gid_t g[1] = { mine };
	T(setgroups(1, g));
	T(setgroups(0, NULL));
	T(syscall(SYS_setfsuid, 0) == me);
	T(syscall(SYS_setfsuid, me) == me);
	show("end");
	CHILD("after fork", show("child"));
	T(prctl(PR_GET_DUMPABLE));
	T(prctl(PR_SET_KEEPCAPS, 1));
	T(prctl(PR_GET_KEEPCAPS));
	T(prctl(PR_CAPBSET_DROP, 1));
	T(prctl(PR_CAPBSET_READ, 63));
	T(prctl(PR_SET_NAME, "a-name-longer-than-fifteen"));
	char n[17] = "";
	T(prctl(PR_GET_NAME, n));
	printf("name \"%s\"\n", n);
	T(prctl(PR_SET_PDEATHSIG, 9));
	int sig = 0;
	T(prctl(PR_GET_PDEATHSIG, &sig));
	printf("pdeathsig %d\n", sig);
	T(prctl(PR_SET_PDEATHSIG, 0));
	T(prctl(PR_SET_CHILD_SUBREAPER, 1));
	T(prctl(PR_GET_CHILD_SUBREAPER, &sig));
	T(prctl(PR_SET_CHILD_SUBREAPER, 0));
	T(prctl(12345));
	T(sethostname("x", 1));
	T(chroot("."));
	T(setpriority(PRIO_PROCESS, 0, -5));
	T(setpriority(PRIO_PROCESS, 0, 1));
	T(getpriority(PRIO_PROCESS, 0));
	T(mknod("dev", S_IFCHR | 0600, 0x103));
	T(chown(".", 0, 0));
	T(acct(NULL));
	T(syscall(SYS_settimeofday, NULL, NULL));
	return 0;
}
