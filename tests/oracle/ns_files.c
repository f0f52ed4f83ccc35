/* oracle: root
 * Namespaces as files (ioctl_ns(2), time_namespaces(7), cgroup_namespaces(7)): their relations, owners, and who may ask. */
#include "oracle.h"
#include <sys/mount.h>
#include <sys/swap.h>

#define NS_GET_USERNS _IO(0xb7, 1)
#define NS_GET_PARENT _IO(0xb7, 2)
#define NS_GET_NSTYPE _IO(0xb7, 3)
#define NS_GET_OWNER_UID _IO(0xb7, 4)
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

static const char *const kinds[] = { "cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts" };
#define NKINDS (sizeof kinds / sizeof *kinds)

static int ns(const char *who, const char *kind)
{
	char name[64];
	snprintf(name, sizeof name, "/proc/%s/ns/%s", who, kind);
	return open(name, O_RDONLY | O_CLOEXEC);
}

/* Whether two descriptors are of one namespace. */
static const char *same(int a, int b)
{
	struct stat sa, sb;
	if (fstat(a, &sa) || fstat(b, &sb)) return "?";
	return sa.st_ino == sb.st_ino && sa.st_dev == sb.st_dev ? "the same" : "another";
}

static const char *failed(int r)
{
	return r < 0 ? name_of(errno) : "ok";
}

static void ask(const char *when)
{
	printf("%s:\n", when);
	int mine = ns("self", "user");
	for (size_t i = 0; i < NKINDS; i++) {
		int fd = ns("self", kinds[i]);
		if (fd < 0) {
			printf("  %s: %s\n", kinds[i], name_of(errno));
			continue;
		}
		uid_t uid = 77;
		int type = ioctl(fd, NS_GET_NSTYPE), owner = ioctl(fd, NS_GET_USERNS), parent, r;
		printf("  %s: type %x, owner %s", kinds[i], type, owner < 0 ? name_of(errno) : same(owner, mine));
		parent = ioctl(fd, NS_GET_PARENT);
		printf(", parent %s", failed(parent));
		r = ioctl(fd, NS_GET_OWNER_UID, &uid);
		printf(", owner uid %s %d", failed(r), uid);
		r = ioctl(fd, _IO(0xb7, 99));
		printf(", unknown %s\n", failed(r));
		close(owner);
		close(parent);
		close(fd);
	}
	close(mine);
}

static void maps(const char *text)
{
	const char *const files[] = { "/proc/self/setgroups", "/proc/self/uid_map", "/proc/self/gid_map" };
	for (int i = 0; i < 3; i++) {
		int fd = M(open(files[i], O_WRONLY));
		const char *t = i ? text : "deny";
		M(write(fd, t, strlen(t)));
		close(fd);
	}
}

static void offsets(const char *text)
{
	int fd = open("/proc/self/timens_offsets", O_WRONLY);
	int r = fd < 0 ? -1 : (int)write(fd, text, strlen(text));
	printf("  offsets \"%s\": %s\n", text, r < 0 ? name_of(errno) : "ok");
	close(fd);
}

static void time_namespaces(void)
{
	printf("time:\n");
	CHILD("time", {
		int old = ns("self", "time");
		print_file("/proc/self/timens_offsets");
		offsets("monotonic 1 0");
		T(unshare(CLONE_NEWTIME));
		int mine = ns("self", "time");
		int children = ns("self", "time_for_children");
		printf("  mine %s, children's %s\n", same(old, mine), same(old, children));
		/* Offsets are refused inside, and only nothing can be asked for. */
		offsets("monotonic 0 0");
		offsets("boottime 0 0\n");
		offsets("1 0 0");
		offsets("7 0 0\nmonotonic 0 0\n");
		offsets("realtime 0 0");
		offsets("monotonic 0");
		offsets("monotonic 0 1000000000");
		offsets("monotonic -1 -1");
		offsets("x 0 0");
		print_file("/proc/self/timens_offsets");
		fflush(stdout);
		pid_t p = fork();
		if (p == 0) {
			offsets("monotonic 0 0");
			print_file("/proc/self/timens_offsets");
			fflush(stdout);
			_exit(0);
		}
		reap("child", p);
		T(unshare(CLONE_NEWTIME));
		T(setns(old, CLONE_NEWTIME));
		printf("  after setns back: %s\n", same(old, ns("self", "time_for_children")));
		T(setns(children, CLONE_NEWTIME));
		T(setns(children, CLONE_NEWPID));
	});
}

static void relations(void)
{
	ask("in the first namespaces");
	CHILD("new ones", {
		M(unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWCGROUP | CLONE_NEWTIME));
		ask("unmapped");
		maps("0 0 1");
		ask("mapped");
	});
	CHILD("of two levels", {
		int outer = ns("self", "user");
		M(unshare(CLONE_NEWUSER | CLONE_NEWPID));
		maps("5 0 1");
		int inner = ns("self", "user");
		int parent = ioctl(inner, NS_GET_PARENT);
		printf("  parent of the inner: %s\n", parent < 0 ? name_of(errno) : same(parent, outer));
		T(ioctl(outer, NS_GET_PARENT));
		T(ioctl(outer, NS_GET_USERNS));
		uid_t uid = 7;
		T(ioctl(outer, NS_GET_OWNER_UID, &uid));
		T(ioctl(inner, NS_GET_OWNER_UID, &uid));
		printf("  owner %d\n", uid);
		fflush(stdout);
		pid_t p = fork();
		if (p == 0) {
			int pidns = ns("self", "pid");
			T(ioctl(pidns, NS_GET_PARENT));
			int owner = ioctl(pidns, NS_GET_USERNS);
			printf("  owner of the pid namespace: %s\n", owner < 0 ? name_of(errno) : same(owner, inner));
			M(unshare(CLONE_NEWUSER));
			T(ioctl(inner, NS_GET_OWNER_UID, &uid));
			T(ioctl(ns("self", "user"), NS_GET_PARENT));
			owner = ioctl(pidns, NS_GET_USERNS);
			printf("  seen from below: %s\n", owner < 0 ? name_of(errno) : same(owner, inner));
			_exit(0);
		}
		reap("inside", p);
	});
	int p[2];
	M(pipe(p));
	T(ioctl(p[0], NS_GET_USERNS));
}

static void capabilities_count_by_owner(void)
{
	printf("by owner:\n");
	CHILD("root of a user namespace only", {
		M(unshare(CLONE_NEWUSER));
		maps("0 0 1");
		T(sethostname("x", 1));
		T(setdomainname("x", 1));
		T(mount("none", "/tmp", "tmpfs", 0, NULL));
		T(umount("/proc"));
		T(chroot("/tmp"));
		T(mknod("node", S_IFCHR | 0600, 0x103));
		T(setns(ns("1", "uts"), CLONE_NEWUTS));
		T(setpriority(PRIO_PROCESS, 0, -5));
		T(unshare(CLONE_NEWUTS));
		T(sethostname("inner", 5));
		T(unshare(CLONE_NEWNS));
		T(mount("none", "/tmp", "tmpfs", 0, NULL));
		T(mount("none", "/tmp", "proc", 0, NULL));
		T(umount("/proc"));
		T(mknod("/tmp/node", S_IFCHR | 0600, 0x103));
		T(mknod("/tmp/fifo", S_IFIFO | 0600, 0));
		struct timespec ts = { 1, 0 };
		T(clock_settime(CLOCK_REALTIME, &ts));
		T(syscall(SYS_syslog, 5, NULL, 0));
		T(swapon("/tmp", 0));
		T(acct("/tmp/acct"));
		T(kill(getppid(), 0));
		struct rlimit r;
		getrlimit(RLIMIT_NOFILE, &r);
		r.rlim_max++;
		T(setrlimit(RLIMIT_NOFILE, &r));
	});
}

int main(void)
{
	M(unshare(CLONE_NEWNS));
	M(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	relations();
	time_namespaces();
	capabilities_count_by_owner();
	return 0;
}
