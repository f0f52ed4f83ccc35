/* oracle: root
 * Capabilities over exec (capabilities(7)): all sets, of root and of others, times what the file grants (set-user-ID root, file
 * capabilities of version 2 and 3), securebits and no_new_privs, in the initial user namespace and below. */
#include "oracle.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/xattr.h>

#define USER 1234
#define SET ((1ULL << CAP_KILL) | (1ULL << CAP_NET_RAW))

static void capset_all(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct d[2] = { { effective, permitted, inheritable },
					       { effective >> 32, permitted >> 32, inheritable >> 32 } };
	M(syscall(SYS_capset, &h, d));
}

static uint64_t bounding(void)
{
	uint64_t all = 0;
	for (int c = 0; c < 64; c++)
		if (prctl(PR_CAPBSET_READ, c) == 1) all |= 1ULL << c;
	return all;
}

static uint64_t ambient(void)
{
	uint64_t all = 0;
	for (int c = 0; c < 64; c++)
		if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, c, 0, 0) == 1) all |= 1ULL << c;
	return all;
}

/* Not every root has it, so it is given up to begin with. */
#define GIVEN_UP (1ULL << CAP_SYS_RESOURCE)

/* All of this kernel's capabilities are "full", and "all" without the one given up, whatever their number. */
static void set(const char *name, uint64_t s, uint64_t all)
{
	if (s == all) printf(" %s=all", name);
	else if (s == (all | GIVEN_UP)) printf(" %s=full", name);
	else if (s == (all & ~SET)) printf(" %s=rest", name);
	else printf(" %s=%llx", name, (unsigned long long)s);
}

static uint64_t everything(void)
{
	int c = 0;
	while (prctl(PR_CAPBSET_READ, c) >= 0) c++;
	return (c == 64 ? ~0ULL : (1ULL << c) - 1) & ~GIVEN_UP;
}

static void show(void)
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct d[2];
	uid_t r, e, s;
	uint64_t all = everything();
	syscall(SYS_capget, &h, d);
	getresuid(&r, &e, &s);
	printf("    uid %d %d %d", r, e, s);
	set("p", (uint64_t)d[1].permitted << 32 | d[0].permitted, all);
	set("e", (uint64_t)d[1].effective << 32 | d[0].effective, all);
	set("i", (uint64_t)d[1].inheritable << 32 | d[0].inheritable, all);
	set("a", ambient(), all);
	set("b", bounding(), all);
	printf(" securebits=%x nnp=%d dumpable=%d\n", (int)prctl(PR_GET_SECUREBITS), (int)prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
	       (int)prctl(PR_GET_DUMPABLE));
}

static const char *const files[] = { "plain", "setuid", "both", "caps_p", "caps_pe", "caps_i", "caps_ie", "caps_v3", "caps_all" };
#define NFILES (sizeof files / sizeof *files)

struct cap_data {
	uint32_t magic;
	struct {
		uint32_t permitted, inheritable;
	} data[2];
	uint32_t rootid;
};

static void grant(const char *file, uint64_t permitted, uint64_t inheritable, int effective, int version, uint32_t rootid)
{
	struct cap_data c = { version | effective,
			      { { permitted, inheritable }, { permitted >> 32, inheritable >> 32 } },
			      rootid };
	size_t size = version == VFS_CAP_REVISION_3 ? 24 : version == VFS_CAP_REVISION_2 ? 20 : 12;
	if (setxattr(file, "security.capability", &c, size, 0)) printf("setxattr %s: %s\n", file, name_of(errno));
}

static void copy(const char *to)
{
	char cmd[128];
	snprintf(cmd, sizeof cmd, "cp -f userns_exec %s && chmod 755 %s", to, to);
	M(system(cmd));
}

static void make_files(void)
{
	for (size_t i = 0; i < NFILES; i++) copy(files[i]);
	M(chmod("setuid", 04755));
	M(chmod("both", 04755));
	grant("both", SET, 0, 0, VFS_CAP_REVISION_2, 0);
	grant("caps_p", SET, 0, 0, VFS_CAP_REVISION_2, 0);
	grant("caps_pe", SET, 0, VFS_CAP_FLAGS_EFFECTIVE, VFS_CAP_REVISION_2, 0);
	grant("caps_i", 0, SET, 0, VFS_CAP_REVISION_2, 0);
	grant("caps_ie", 0, SET, VFS_CAP_FLAGS_EFFECTIVE, VFS_CAP_REVISION_2, 0);
	grant("caps_v3", SET, 0, VFS_CAP_FLAGS_EFFECTIVE, VFS_CAP_REVISION_3, 0);
	grant("caps_all", everything(), 0, VFS_CAP_FLAGS_EFFECTIVE, VFS_CAP_REVISION_2, 0);
}

static void run(const char *file)
{
	fflush(stdout);
	pid_t p = fork();
	if (p == 0) {
		char path[64];
		snprintf(path, sizeof path, "./%s", file);
		execl(path, path, "show", NULL);
		printf("    %s: exec: %s\n", file, name_of(errno));
		_exit(0);
	}
	int st;
	waitpid(p, &st, 0);
	if (st) printf("    %s: %s\n", file, status_text(st));
}

/* How the caller is before exec. */
struct before {
	const char *name;
	int uid, euid, securebits, nnp, inheritable, raise, drop_bounding, keep;
};

static const struct before befores[] = {
	{ "root", 0, 0, 0, 0, 0, 0, 0, 0 },
	{ "root, inheritable", 0, 0, 0, 0, 1, 0, 0, 0 },
	{ "root, bounded", 0, 0, 0, 0, 0, 0, 1, 0 },
	{ "root, NOROOT", 0, 0, SECBIT_NOROOT, 0, 0, 0, 0, 0 },
	{ "root, NOROOT, inheritable", 0, 0, SECBIT_NOROOT, 0, 1, 0, 0, 0 },
	{ "root, NOROOT, ambient", 0, 0, SECBIT_NOROOT, 0, 1, 1, 0, 0 },
	{ "root, ambient", 0, 0, 0, 0, 1, 1, 0, 0 },
	{ "root, NO_NEW_PRIVS", 0, 0, 0, 1, 0, 0, 0, 0 },
	{ "root, effective other", 0, USER, 0, 0, 0, 0, 0, 0 },
	{ "other, effective root", USER, 0, 0, 0, 0, 0, 0, 0 },
	{ "other", USER, USER, 0, 0, 0, 0, 0, 0 },
	{ "other, inheritable", USER, USER, 0, 0, 1, 0, 0, 0 },
	{ "other, inheritable, bounded", USER, USER, 0, 0, 1, 0, 1, 0 },
	{ "other, ambient", USER, USER, 0, 0, 1, 1, 0, 1 },
	{ "other, ambient, NO_NEW_PRIVS", USER, USER, 0, 1, 1, 1, 0, 1 },
	{ "other, NO_NEW_PRIVS", USER, USER, 0, 1, 0, 0, 0, 0 },
	{ "other, NOROOT", USER, USER, SECBIT_NOROOT, 0, 0, 0, 0, 0 },
	{ "other, NO_SETUID_FIXUP", USER, USER, SECBIT_NO_SETUID_FIXUP, 0, 0, 0, 0, 0 },
	{ "other, KEEP_CAPS", USER, USER, SECBIT_KEEP_CAPS, 0, 0, 0, 0, 0 },
	{ "other, NO_CAP_AMBIENT_RAISE", USER, USER, SECBIT_NO_CAP_AMBIENT_RAISE, 0, 1, 1, 0, 1 },
};

static void become(const struct before *b)
{
	uint64_t all = everything();
	if (b->inheritable) capset_all(all, all, SET);
	if (b->drop_bounding) T(prctl(PR_CAPBSET_DROP, CAP_KILL));
	if (b->keep) M(prctl(PR_SET_KEEPCAPS, 1));
	if (b->securebits) T(prctl(PR_SET_SECUREBITS, b->securebits));
	M(setresuid(b->uid, b->euid, b->euid));
	if (b->raise)
		for (int c = 0; c < 64; c++)
			if (SET >> c & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0))
				printf("    raise %d: %s\n", c, name_of(errno));
	if (b->nnp) M(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static void matrix(void)
{
	for (size_t i = 0; i < sizeof befores / sizeof *befores; i++) {
		printf("%s\n", befores[i].name);
		CHILD(befores[i].name, {
			become(&befores[i]);
			show();
			for (size_t f = 0; f < NFILES; f++) {
				printf("   %s\n", files[f]);
				run(files[f]);
			}
		});
	}
}

/* Fix-ups of set*uid, capset's rules, securebits. */
static void rules(void)
{
	uint64_t all = everything();
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct d[2] = { 0 };
	CHILD("euid to other and back", {
		M(setresuid(-1, USER, -1));
		show();
		M(setresuid(-1, 0, -1));
		show();
	});
	CHILD("all to other", {
		M(setresuid(USER, USER, USER));
		show();
	});
	CHILD("keepcaps", {
		M(prctl(PR_SET_KEEPCAPS, 1));
		M(setresuid(USER, USER, USER));
		show();
		capset_all(SET, all, SET);
		show();
		T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0));
		T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
		show();
		capset_all(SET, all, 0);
		show();
		T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
		T(prctl(PR_CAP_AMBIENT, 9, 0, 0, 0));
		T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 99, 0, 0));
		T(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 1, 0));
		d[0].permitted = 1;
		d[0].effective = 2;
		T(syscall(SYS_capset, &h, d));
		d[0].effective = 0;
		T(syscall(SYS_capset, &h, d));
		d[0].permitted = 3;
		T(syscall(SYS_capset, &h, d));
		d[0].permitted = 0;
		d[0].inheritable = 4;
		T(syscall(SYS_capset, &h, d));
		show();
	});
	CHILD("fsuid", {
		syscall(SYS_setfsuid, USER);
		show();
		syscall(SYS_setfsuid, 0);
		show();
	});
	CHILD("no fix-up", {
		M(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP));
		M(setresuid(USER, USER, USER));
		show();
	});
	CHILD("locked", {
		T(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_KEEP_CAPS_LOCKED));
		T(prctl(PR_SET_KEEPCAPS, 0));
		T(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS_LOCKED));
		T(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS));
		T(prctl(PR_SET_SECUREBITS, 0x1000));
		T(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_KEEP_CAPS_LOCKED | SECBIT_NOROOT));
		M(setresuid(USER, USER, USER));
		show();
		capset_all(0, 0, 0);
		T(prctl(PR_SET_SECUREBITS, 0));
		T(prctl(PR_CAPBSET_DROP, CAP_KILL));
		T(prctl(PR_CAPBSET_DROP, 99));
		T(prctl(PR_CAPBSET_READ, 99));
		T(prctl(PR_SET_KEEPCAPS, 2));
	});
	CHILD("capset of others", {
		h.pid = getppid();
		T(syscall(SYS_capset, &h, d));
		T(syscall(SYS_capget, &h, d));
		h.pid = -1;
		T(syscall(SYS_capget, &h, d));
		h.pid = 999999;
		T(syscall(SYS_capget, &h, d));
	});
}

/* In a user namespace where the caller is root, or not mapped at all. */
static void below(const char *map)
{
	printf("below, map \"%s\"\n", map);
	CHILD("below", {
		M(unshare(CLONE_NEWUSER));
		show();
		if (*map) {
			int fd = M(open("/proc/self/uid_map", O_WRONLY));
			T(write(fd, map, strlen(map)) > 0);
			close(fd);
			fd = M(open("/proc/self/gid_map", O_WRONLY));
			T(write(fd, map, strlen(map)) > 0);
			close(fd);
		}
		show();
		for (size_t f = 0; f < NFILES; f++) {
			printf("   %s\n", files[f]);
			run(files[f]);
		}
		struct cap_data c = { 0 };
		for (size_t f = 0; f < NFILES; f++) {
			memset(&c, 0, sizeof c);
			int n = getxattr(files[f], "security.capability", &c, sizeof c);
			printf("  %s: %d %s revision %x root %u\n", files[f], n, n < 0 ? name_of(errno) : "", c.magic >> 24, c.rootid);
		}
		copy("made_below");
		grant("made_below", SET, 0, VFS_CAP_FLAGS_EFFECTIVE, VFS_CAP_REVISION_2, 0);
		grant("made_below", SET, 0, VFS_CAP_FLAGS_EFFECTIVE, VFS_CAP_REVISION_3, 0);
		grant("made_below", SET, 0, VFS_CAP_FLAGS_EFFECTIVE, VFS_CAP_REVISION_3, 77);
		run("made_below");
		T(prctl(PR_CAPBSET_DROP, CAP_KILL));
		T(setresuid(5, 5, 5));
		show();
	});
	struct cap_data c = { 0 };
	int n = getxattr("made_below", "security.capability", &c, sizeof c);
	printf("  made below, from above: %d %s revision %x root %u\n", n, n < 0 ? name_of(errno) : "", c.magic >> 24, c.rootid);
	run("made_below");
	unlink("made_below");
}

int main(int argc, char **argv)
{
	(void)argv;
	if (argc > 1) {
		show();
		return 0;
	}
	M(setgroups(0, NULL));
	prctl(PR_CAPBSET_DROP, CAP_SYS_RESOURCE);
	capset_all(everything(), everything(), 0);
	M(chmod(".", 0755));
	make_files();
	matrix();
	rules();
	below("");
	below("0 0 1");
	below("0 0 10");
	below("0 1000 10\n100 0 1\n");
	below("5 0 1");
	return 0;
}
