/* oracle: root
 * bpf(2) with programs that decide about devices: loading, what the verifier refuses, attaching to groups, and what tasks in
 * them may open, make and look at. In groups of its own, which are removed. */
#include "oracle.h"
#include <linux/bpf.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <linux/capability.h>

static int bpf(int command, union bpf_attr *attr, unsigned size)
{
	return syscall(SYS_bpf, command, attr, size);
}

#define I(code, dst, src, off, imm) ((struct bpf_insn){ code, dst, src, off, imm })
#define MOV(dst, imm) I(0xb7, dst, 0, 0, imm)
#define EXIT I(0x95, 0, 0, 0, 0)
#define LOAD(dst, off) I(0x61, dst, 1, off, 0)

static int load_as(int type, const struct bpf_insn *insns, unsigned count)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof attr);
	attr.prog_type = type;
	attr.insns = (uint64_t)insns;
	attr.insn_cnt = count;
	attr.license = (uint64_t) "GPL";
	return bpf(BPF_PROG_LOAD, &attr, sizeof attr);
}
#define LOADED(...) load_as(BPF_PROG_TYPE_CGROUP_DEVICE, (struct bpf_insn[]){ __VA_ARGS__ }, sizeof((struct bpf_insn[]){ __VA_ARGS__ }) / 8)

static void shown(const char *what, int fd)
{
	printf("%s: %s\n", what, fd >= 0 ? "loaded" : name_of(errno));
	if (fd >= 0)
		close(fd);
}
#define REFUSED(what, ...) shown(what, LOADED(__VA_ARGS__))

static int attach(int cgroup, int program, unsigned flags, int replace)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof attr);
	attr.target_fd = cgroup;
	attr.attach_bpf_fd = program;
	attr.attach_type = BPF_CGROUP_DEVICE;
	attr.attach_flags = flags;
	attr.replace_bpf_fd = replace;
	return bpf(BPF_PROG_ATTACH, &attr, sizeof attr);
}

static int detach(int cgroup, int program)
{
	union bpf_attr attr;
	memset(&attr, 0, sizeof attr);
	attr.target_fd = cgroup;
	attr.attach_bpf_fd = program;
	attr.attach_type = BPF_CGROUP_DEVICE;
	return bpf(BPF_PROG_DETACH, &attr, sizeof attr);
}

static void query(int cgroup, int effective, int room)
{
	uint32_t ids[8] = { 0 };
	union bpf_attr attr;
	memset(&attr, 0, sizeof attr);
	attr.query.target_fd = cgroup;
	attr.query.attach_type = BPF_CGROUP_DEVICE;
	attr.query.query_flags = effective ? BPF_F_QUERY_EFFECTIVE : 0;
	attr.query.prog_ids = (uint64_t)ids;
	attr.query.prog_cnt = room;
	int r = bpf(BPF_PROG_QUERY, &attr, sizeof attr), given = 0;
	for (int i = 0; i < 8; i++)
		given += ids[i] != 0;
	printf("  query: %s, %u programs, flags %u, %d given\n", r ? name_of(errno) : "ok", attr.query.prog_cnt, attr.query.attach_flags, given);
}

static void tries(const char *where)
{
	static const struct { const char *path; int flags; } opens[] = {
		{ "/dev/null", O_RDONLY }, { "/dev/null", O_WRONLY }, { "/dev/null", O_RDWR }, { "/dev/zero", O_RDONLY }, { "/dev/full", O_WRONLY },
		{ "/dev/null", O_PATH }, { "/etc/passwd", O_RDONLY },
	};
	printf("%s:", where);
	for (unsigned i = 0; i < sizeof opens / sizeof *opens; i++) {
		int fd = open(opens[i].path, opens[i].flags);
		printf(" %s", fd >= 0 ? "ok" : name_of(errno));
		if (fd >= 0)
			close(fd);
	}
	printf("; access %s %s %s", access("/dev/zero", R_OK) ? name_of(errno) : "ok", access("/dev/zero", F_OK) ? name_of(errno) : "ok",
	       access("/dev/null", W_OK) ? name_of(errno) : "ok");
	printf("; mknod");
	static const struct { int mode, major, minor; } nodes[] = { { S_IFCHR, 1, 3 }, { S_IFCHR, 1, 5 }, { S_IFBLK, 1, 3 }, { S_IFCHR, 0, 0 }, { S_IFIFO, 0, 0 } };
	for (unsigned i = 0; i < sizeof nodes / sizeof *nodes; i++) {
		int r = mknod("node", nodes[i].mode | 0600, makedev(nodes[i].major, nodes[i].minor));
		printf(" %s", r ? name_of(errno) : "ok");
		unlink("node");
	}
	printf(" %s\n", mknod("bpf_device", S_IFBLK | 0600, makedev(7, 0)) ? name_of(errno) : "ok");
	fflush(stdout);
}

/* In a process of the group. */
static void inside(const char *group, const char *where)
{
	char path[600];
	snprintf(path, sizeof path, "%s/cgroup.procs", group);
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		FILE *f = fopen(path, "w");
		if (!f || fprintf(f, "0\n") < 0 || fclose(f)) {
			printf("%s: cannot enter: %s\n", where, name_of(errno));
			_exit(1);
		}
		tries(where);
		_exit(0);
	}
	waitpid(child, NULL, 0);
}

/* "r" and "w" of the character device 1:3, and making 1:5. */
static int rules(void)
{
	return LOADED(LOAD(2, 0), I(0x54, 2, 0, 0, 0xffff), LOAD(3, 0), I(0x74, 3, 0, 0, 16), LOAD(4, 4), LOAD(5, 8),
		      I(0x55, 2, 0, 11, BPF_DEVCG_DEV_CHAR), I(0x55, 4, 0, 10, 1),
		      I(0x55, 5, 0, 5, 3), I(0xbc, 1, 3, 0, 0), I(0x54, 1, 0, 0, BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE), I(0x5d, 1, 3, 2, 0), MOV(0, 1), EXIT,
		      I(0x55, 5, 0, 3, 5), I(0x55, 3, 0, 2, BPF_DEVCG_ACC_MKNOD), MOV(0, 1), EXIT, MOV(0, 0), EXIT);
}

int main(void)
{
	const char *top = access("/sys/fs/cgroup/unified/cgroup.procs", F_OK) ? "/sys/fs/cgroup" : "/sys/fs/cgroup/unified";
	char a[512], b[600];
	snprintf(a, sizeof a, "%s/nomina-bpf-%d", top, getpid());
	snprintf(b, sizeof b, "%s/below", a);

	puts("-- loading");
	REFUSED("gives nothing", EXIT);
	REFUSED("gives a number", MOV(0, 1), EXIT);
	REFUSED("runs off", MOV(0, 1));
	REFUSED("jumps out", MOV(0, 1), I(0x05, 0, 0, 7, 0), EXIT);
	REFUSED("never reached", MOV(0, 1), EXIT, MOV(0, 0), EXIT);
	REFUSED("beside the context", LOAD(0, 12), EXIT);
	REFUSED("not aligned", LOAD(0, 2), EXIT);
	REFUSED("half of the type", I(0x69, 0, 1, 2, 0), MOV(0, 1), EXIT);
	REFUSED("the other half", I(0x69, 0, 1, 0, 0), MOV(0, 1), EXIT);
	REFUSED("a byte of the type", I(0x71, 0, 1, 1, 0), MOV(0, 1), EXIT);
	REFUSED("the first byte", I(0x71, 0, 1, 0, 0), MOV(0, 1), EXIT);
	REFUSED("gives 2", MOV(0, 2), EXIT);
	REFUSED("gives -1", MOV(0, -1), EXIT);
	REFUSED("gives what it was asked", LOAD(0, 4), EXIT);
	REFUSED("gives a bit of it", LOAD(0, 4), I(0x54, 0, 0, 0, 1), EXIT);
	REFUSED("gives its highest bit", LOAD(0, 4), I(0x74, 0, 0, 0, 31), EXIT);
	REFUSED("gives one or the other", LOAD(2, 4), MOV(0, 1), I(0x55, 2, 0, 1, 5), MOV(0, 0), EXIT);
	REFUSED("half of a number", I(0x69, 0, 1, 4, 0), EXIT);
	REFUSED("what was not set", I(0xbf, 0, 3, 0, 0), EXIT);
	REFUSED("shift too far", MOV(0, 1), I(0x67, 0, 0, 0, 64), EXIT);
	REFUSED("divided by nothing", MOV(0, 1), I(0x37, 0, 0, 0, 0), EXIT);
	REFUSED("no such instruction", I(0xff, 0, 0, 0, 0), EXIT);
	REFUSED("no such register", MOV(12, 0), EXIT);
	REFUSED("a long number", I(0x18, 2, 0, 0, 1), I(0, 0, 0, 0, 1), MOV(0, 1), EXIT);
	REFUSED("half a long number", MOV(0, 1), I(0x18, 2, 0, 0, 1), EXIT);
	REFUSED("a store", I(0x62, 1, 0, 0, 1), MOV(0, 1), EXIT);
	REFUSED("a number as a place", MOV(2, 8), I(0x61, 0, 2, 0, 0), MOV(0, 1), EXIT);
	REFUSED("a pointer copied", I(0xbf, 2, 1, 0, 0), I(0x61, 0, 2, 4, 0), MOV(0, 1), EXIT);
	struct bpf_insn yes[] = { MOV(0, 1), EXIT };
	shown("none", load_as(BPF_PROG_TYPE_CGROUP_DEVICE, yes, 0));
	shown("no such type", load_as(200, yes, 2));
	shown("about packets", load_as(BPF_PROG_TYPE_CGROUP_SKB, yes, 2));
	shown("nowhere", load_as(BPF_PROG_TYPE_CGROUP_DEVICE, (void *)8, 2));
	union bpf_attr attr;
	memset(&attr, 0, sizeof attr);
	T(bpf(4000, &attr, sizeof attr));
	T(bpf(BPF_PROG_LOAD, &attr, 1 << 20));

	puts("-- groups");
	T(mkdir(a, 0755));
	T(mkdir(b, 0755));
	int above = open(a, O_RDONLY | O_DIRECTORY), below = open(b, O_RDONLY | O_DIRECTORY);
	int all = LOADED(MOV(0, 1), EXIT), none = LOADED(MOV(0, 0), EXIT), some = rules();
	printf("programs: %d %d %d\n", all >= 0, none >= 0, some >= 0);
	printf("close-on-exec: %d\n", fcntl(all, F_GETFD));
	query(above, 0, 8);
	T(attach(above, above, 0, 0));
	T(attach(all, all, 0, 0));
	T(attach(above, 999, 0, 0));
	T(attach(above, some, BPF_F_ALLOW_MULTI | BPF_F_ALLOW_OVERRIDE, 0));
	T(attach(above, some, 1 << 20, 0));
	T(attach(above, some, BPF_F_ALLOW_MULTI, 0));
	T(attach(above, some, BPF_F_ALLOW_MULTI, 0));
	T(attach(above, all, 0, 0));
	query(above, 0, 8);
	query(below, 0, 8);
	query(below, 1, 8);
	inside(a, "above");
	inside(b, "below");
	T(attach(below, none, BPF_F_ALLOW_MULTI, 0));
	query(below, 1, 8);
	query(below, 1, 1);
	query(below, 1, 0);
	inside(b, "below, nothing allowed");
	T(attach(below, all, BPF_F_ALLOW_MULTI | BPF_F_REPLACE, none));
	T(attach(below, none, BPF_F_ALLOW_MULTI | BPF_F_REPLACE, none));
	inside(b, "below, as above");
	T(detach(above, none));
	T(detach(above, some));
	query(above, 0, 8);
	inside(b, "below, all");
	T(detach(below, all));
	T(detach(below, all));
	T(attach(above, some, 0, 0));
	T(attach(below, all, 0, 0));
	T(detach(above, 0));
	T(attach(above, some, BPF_F_ALLOW_OVERRIDE, 0));
	T(attach(below, all, BPF_F_ALLOW_OVERRIDE, 0));
	inside(b, "overridden");
	close(some);
	inside(a, "its descriptor closed");

	puts("-- without capabilities");
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
		struct __user_cap_data_struct data[2] = { { 0 } };
		T(syscall(SYS_capset, &head, data));
		shown("load", load_as(BPF_PROG_TYPE_CGROUP_DEVICE, yes, 2));
		T(attach(above, all, BPF_F_ALLOW_OVERRIDE, 0));
		query(above, 0, 8);
		fflush(stdout);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	T(rmdir(b));
	T(rmdir(a));
	return 0;
}
