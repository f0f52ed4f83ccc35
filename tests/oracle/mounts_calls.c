/* oracle: root
 * Which errno mount(2), umount2(2), pivot_root(2) and the calls of the new mount interface give, and in which order they
 * check. */
#include "oracle.h"
#include "mounts.h"
#include <sys/statfs.h>

static long config(int fd, unsigned cmd, const char *key, const void *value, int aux)
{
	return syscall(SYS_fsconfig, fd, cmd, key, value, aux);
}

static void old_calls(void)
{
	puts("== mount");
	OK(mount("t", "/none", "tmpfs", 0, NULL));
	OK(mount("t", "/a", NULL, 0, NULL));
	OK(mount("t", "/a", "no such type", 0, NULL));
	OK(mount("t", "/a", "tmpfs.", 0, NULL));
	OK(mount("t", "/a", "tmpfs.x", 0, NULL));
	OK(mount("t", "/a", "tmpfs", 0, "no_such_option"));
	OK(mount("t", "/a", "tmpfs", 0, "mode=9"));
	OK(mount("t", "/a", "tmpfs", 0, ",,mode=700,,"));
	OK(umount2("/a", 0));
	OK(mount("t", "/f", "tmpfs", 0, NULL));
	OK(mount(NULL, "/a", "tmpfs", MS_MGC_VAL, NULL));
	OK(umount2("/a", 0));
	OK(mount("t", "/a", "tmpfs", 1UL << 31, NULL));
	OK(mount(NULL, "/b", NULL, MS_BIND, NULL));
	OK(mount("", "/b", NULL, MS_BIND, NULL));
	OK(mount("/none", "/b", NULL, MS_BIND, NULL));
	OK(mount("/f", "/b", NULL, MS_BIND, NULL));
	OK(mount("/a", "/f", NULL, MS_BIND, NULL));
	OK(mount(NULL, "/b", NULL, MS_MOVE, NULL));
	OK(mount("/a", "/b", NULL, MS_MOVE, NULL));
	OK(mount("/", "/b", NULL, MS_MOVE, NULL));
	OK(mount("/a", "/b", NULL, MS_REMOUNT | MS_BIND, NULL));
	OK(mount("/a", "/b", NULL, MS_REMOUNT, NULL));
	OK(mount(NULL, "/b", NULL, MS_SHARED, NULL));
	OK(mount(NULL, "/", NULL, MS_SHARED | MS_PRIVATE, NULL));
	OK(mount(NULL, "/", NULL, MS_SHARED | MS_NOSUID, NULL));
	OK(mount(NULL, "/", NULL, MS_PRIVATE | MS_REC | MS_SILENT, NULL));

	puts("== flags");
	OK(mount("t", "/a", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL));
	OK(mkdir("/a/x", 0755));
	OK(mount(NULL, "/a", NULL, MS_REMOUNT | MS_NODEV, NULL));
	OK(mkdir("/a/x", 0755));
	OK(mount(NULL, "/a", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOATIME, NULL));
	OK(mkdir("/a/y", 0755));
	OK(open("/a/z", O_CREAT | O_WRONLY, 0644));
	OK(mount(NULL, "/a", NULL, MS_REMOUNT | MS_BIND | MS_NOSYMFOLLOW, NULL));
	OK(symlink("x", "/a/link"));
	OK(open("/a/link", O_RDONLY));
	OK(open("/a/link", O_PATH | O_NOFOLLOW));
	OK(mount(NULL, "/a", NULL, MS_REMOUNT | MS_BIND | MS_NODEV, NULL));
	OK(mknod("/a/null", S_IFCHR | 0666, 0x103));
	OK(open("/a/null", O_RDONLY));
	OK(mount(NULL, "/a", NULL, MS_REMOUNT | MS_BIND, NULL));
	OK(open("/a/null", O_RDONLY));

	puts("== umount2");
	OK(umount2("/a", 1 << 10));
	OK(umount2("/none", 0));
	OK(umount2("/b", 0));
	OK(umount2("/a", MNT_EXPIRE | MNT_DETACH));
	OK(umount2("/a/x", MNT_EXPIRE));
	OK(mount("/a/x", "/b/x", NULL, MS_BIND, NULL));
	int fd = open("/b/x", O_RDONLY | O_DIRECTORY);
	OK(umount2("/b/x", 0));
	close(fd);
	OK(umount2("/b/x", MNT_EXPIRE));
	OK(access("/b/x", F_OK));
	OK(umount2("/b/x", MNT_EXPIRE));
	OK(umount2("/b/x", MNT_EXPIRE));
	OK(umount2("/b/x", MNT_EXPIRE));
	OK(mount("/a", "/b/x", NULL, MS_BIND, NULL));
	fd = open("/b/x/file", O_CREAT | O_RDWR, 0644);
	OK(umount2("/b/x", 0));
	OK(umount2("/b/x", MNT_EXPIRE));
	int copy = dup(fd);
	close(fd);
	OK(umount2("/b/x", 0));
	char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, copy, 0);
	close(copy);
	OK(umount2("/b/x", 0));
	munmap(map, 4096);
	OK(umount2("/b/x", 0));
	OK(symlink("/a", "/link"));
	OK(umount2("/link", UMOUNT_NOFOLLOW));
	OK(chdir("/a"));
	OK(umount2("/a", 0));
	OK(umount2(".", MNT_DETACH));
	OK(mkdir("x/under", 0755));
	OK(umount2(".", MNT_DETACH));
	OK(mount("t", ".", "tmpfs", 0, NULL));
	OK(mount(".", "/b", NULL, MS_BIND, NULL));
	OK(chdir("/"));

	puts("== pivot_root");
	OK(syscall(SYS_pivot_root, "/none", "/"));
	OK(syscall(SYS_pivot_root, "/f", "/"));
	OK(syscall(SYS_pivot_root, "/a", "/a/x"));
	OK(syscall(SYS_pivot_root, "/", "/"));
	OK(mount("t", "/a", "tmpfs", 0, NULL));
	OK(mkdir("/a/old", 0755));
	OK(syscall(SYS_pivot_root, "/a", "/b"));
	OK(syscall(SYS_pivot_root, "/a/old", "/a/old"));
	OK(umount2("/a", 0));

	puts("== the root");
	OK(umount2("/", MNT_EXPIRE));
	OK(umount2("/", 0));
	OK(mkdir("/new", 0755));
	OK(mount(NULL, "/", NULL, MS_REMOUNT, NULL));
	OK(mkdir("/new", 0755));
}

static void new_calls(void)
{
	puts("== fsopen");
	OK(syscall(SYS_fsopen, "no such type", 0));
	OK(syscall(SYS_fsopen, "no such type", 2));
	OK(syscall(SYS_fsopen, NULL, 0));
	int fd = syscall(SYS_fsopen, "tmpfs", 1);
	printf("close-on-exec %d\n", fcntl(fd, F_GETFD));
	OK(config(-1, 0, "ro", NULL, 0));
	OK(config(999, 0, "ro", NULL, 0));
	OK(config(999, 0, NULL, NULL, 0));
	OK(config(0, 0, "ro", NULL, 0));
	OK(config(fd, 77, "ro", NULL, 0));
	OK(config(fd, 0, "ro", "x", 0));
	OK(config(fd, 0, "ro", NULL, 1));
	OK(config(fd, 1, "mode", NULL, 0));
	OK(config(fd, 1, "mode", "9", 0));
	OK(config(fd, 1, "no_such", "9", 0));
	OK(config(fd, 1, "source", "s", 0));
	OK(config(fd, 1, "source", "s", 0));
	OK(config(fd, 1, "mode", "711", 0));
	OK(config(fd, 7, NULL, NULL, 0));
	OK(syscall(SYS_fsmount, fd, 0, 0));
	OK(config(fd, 6, NULL, NULL, 0));
	OK(config(fd, 6, NULL, NULL, 0));
	OK(config(fd, 0, "ro", NULL, 0));
	OK(syscall(SYS_fsmount, fd, 2, 0));
	OK(syscall(SYS_fsmount, fd, 0, 0x40));
	OK(syscall(SYS_fsmount, fd, 0, 0x30));
	OK(syscall(SYS_fsmount, 0, 0, 0));
	int m = syscall(SYS_fsmount, fd, 1, 0x2 | 0x10);
	printf("fsmount %s\n", m < 0 ? name_of(errno) : "ok");
	OK(syscall(SYS_fsmount, fd, 0, 0));
	OK(config(fd, 0, "ro", NULL, 0));
	OK(config(fd, 7, NULL, NULL, 0));
	char text[256];
	for (;;) {
		long n = read(fd, text, sizeof text - 1);
		if (n < 0)
			break;
		text[n] = 0;
		printf("message: %s", text);
		if (!n)
			break;
	}
	OK(mkdirat(m, "d", 0755));
	OK(config(fd, 0, "rw", NULL, 0));
	OK(config(fd, 7, NULL, NULL, 0));
	OK(mkdirat(m, "d", 0755));
	OK(syscall(SYS_fspick, AT_FDCWD, "/a", 0x10));
	OK(syscall(SYS_fspick, AT_FDCWD, "/a/x", 0));
	OK(syscall(SYS_fspick, AT_FDCWD, "/", 0));
	OK(syscall(SYS_move_mount, m, "", AT_FDCWD, "/c", 0x1000));
	OK(syscall(SYS_move_mount, m, "", AT_FDCWD, "/c", 0));
	OK(syscall(SYS_move_mount, m, "", AT_FDCWD, "/f", 4));
	OK(syscall(SYS_move_mount, m, "", AT_FDCWD, "/c", 4));
	OK(syscall(SYS_move_mount, m, "", AT_FDCWD, "/c", 4));
	struct stat st;
	OK(stat("/c/d", &st));
	OK(stat("/c", &st));
	printf("mode %o\n", st.st_mode);
	OK(umount2("/c", 0));
	close(m);
	OK(umount2("/c", 0));
	close(fd);
	fd = syscall(SYS_fsopen, "proc", 0);
	OK(config(fd, 6, NULL, NULL, 0));
	close(fd);
}

#define ATTR(set, clr, prop) &(struct mount_attr){ set, clr, prop, 0 }, 32

static void by_descriptor(void)
{
	puts("== open_tree, move_mount");
	OK(syscall(SYS_open_tree, AT_FDCWD, "/a", 0x10));
	OK(syscall(SYS_open_tree, AT_FDCWD, "/a", 0x8000));
	OK(syscall(SYS_open_tree, AT_FDCWD, "/none", 1));
	OK(mount("t", "/a", "tmpfs", 0, NULL));
	OK(mkdir("/a/d", 0755));
	OK(mount("u", "/a/d", "tmpfs", 0, NULL));
	int one = syscall(SYS_open_tree, AT_FDCWD, "/a", 1 | O_CLOEXEC);
	int all = syscall(SYS_open_tree, AT_FDCWD, "/a", 1 | 0x8000);
	OK(mkdirat(one, "d/only-one", 0755));
	OK(mkdirat(all, "d/all", 0755));
	OK(access("/a/d/all", F_OK));
	OK(access("/a/d/only-one", F_OK));
	OK(syscall(SYS_move_mount, all, "d", AT_FDCWD, "/b", 0));
	OK(syscall(SYS_move_mount, all, "", AT_FDCWD, "/b", 4));
	OK(access("/b/d/all", F_OK));
	OK(syscall(SYS_move_mount, AT_FDCWD, "/b", AT_FDCWD, "/c", 0));
	OK(access("/c/d/all", F_OK));
	OK(syscall(SYS_move_mount, AT_FDCWD, "/c", AT_FDCWD, "/c/d", 0));
	OK(syscall(SYS_move_mount, one, "", AT_FDCWD, "/c", 4 | 0x200));
	OK(umount2("/c", MNT_DETACH));
	OK(access("/c/d/only-one", F_OK));
	OK(umount2("/c", 0));
	OK(syscall(SYS_move_mount, AT_FDCWD, "/a", AT_FDCWD, "/c", 0x300));
	OK(syscall(SYS_move_mount, AT_FDCWD, "/a", AT_FDCWD, "/a/d", 0x100));
	close(one);
	close(all);
	int lost = syscall(SYS_open_tree, AT_FDCWD, "/a", 1);
	int deep = openat(lost, "d", O_RDONLY | O_DIRECTORY);
	close(lost);
	OK(syscall(SYS_move_mount, deep, "", AT_FDCWD, "/b", 4));
	OK(faccessat(deep, "only-one", F_OK, 0));
	close(deep);

	puts("== mount_setattr");
	OK(syscall(SYS_mount_setattr, AT_FDCWD, "/a", 0, NULL, 0));
	OK(syscall(SYS_mount_setattr, AT_FDCWD, "/a", 0x10, ATTR(1, 0, 0)));
	OK(syscall(SYS_mount_setattr, AT_FDCWD, "/a", 0, ATTR(0x40, 0, 0)));
	OK(syscall(SYS_mount_setattr, AT_FDCWD, "/a", 0, ATTR(0x10, 0, 0)));
	OK(syscall(SYS_mount_setattr, AT_FDCWD, "/none", 0, ATTR(0, 0, 0)));
	OK(syscall(SYS_mount_setattr, AT_FDCWD, "/none", 0, ATTR(1, 0, 0)));
	OK(syscall(SYS_mount_setattr, AT_FDCWD, "/a/d/all", 0, ATTR(1, 0, 0)));
	OK(syscall(SYS_mount_setattr, AT_FDCWD, "/a", 0, ATTR(0, 0, MS_SHARED | MS_PRIVATE)));
	OK(syscall(SYS_mount_setattr, AT_FDCWD, "/a", 0x8000, ATTR(1 | 0x10, 0x70, MS_SHARED)));
	OK(mkdir("/a/new", 0755));
	OK(mkdir("/a/d/new", 0755));
	OK(syscall(SYS_mount_setattr, AT_FDCWD, "/a", 0x8000, ATTR(0, 1, MS_PRIVATE)));
	int fd = open("/a/d/file", O_CREAT | O_WRONLY, 0644);
	OK(syscall(SYS_mount_setattr, AT_FDCWD, "/a", 0x8000, ATTR(1, 0, 0)));
	OK(mount(NULL, "/a/d", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
	OK(mount(NULL, "/a/d", NULL, MS_REMOUNT | MS_RDONLY, NULL));
	OK(mkdir("/a/new", 0755));
	close(fd);
	OK(mount(NULL, "/a/d", NULL, MS_REMOUNT | MS_RDONLY, NULL));
	OK(mount(NULL, "/a/d", NULL, MS_REMOUNT, NULL));

	puts("== statmount, listmount");
	struct { uint32_t size, fd; uint64_t id, param, ns; } req = { 24, 0, 0, 0, 0 };
	uint64_t ids[64];
	union { struct { uint32_t size, opts; uint64_t mask; uint32_t major, minor; uint64_t magic; uint32_t flags, type; uint64_t id,
		parent; uint32_t old, parent_old; uint64_t attr, propagation, group, master, from; uint32_t root, point; } s;
		char bytes[4096]; } st;
	OK(syscall(458, &req, ids, 64, 0));
	req.id = ~0ULL;
	OK(syscall(458, &req, ids, 64, 2));
	req.size = 8;
	OK(syscall(458, &req, ids, 64, 0));
	req.size = 24;
	req.param = 5;
	OK(syscall(458, &req, ids, 64, 0));
	req.param = 0;
	OK(syscall(458, &req, ids, 2000000, 0));
	long n = T(syscall(458, &req, ids, 64, 0));
	uint64_t back[64];
	long m = T(syscall(458, &req, back, 64, 1));
	for (long i = 0; i < n; i++)
		if (ids[i] != back[m - 1 - i])
			puts("not the reverse");
	T(syscall(458, &req, back, 1, 0));
	req.param = ids[0];
	T(syscall(458, &req, back, 64, 0));
	for (long i = 0; i < n; i++) {
		req.id = ids[i];
		req.param = 0x3f;
		memset(&st, 0x55, sizeof st);
		long r = syscall(457, &req, &st, sizeof st, 0);
		char *text = st.bytes + 512;
		printf("%ld size %u mask %#llx magic %#llx flags %u attr %#llx propagation %#llx group %d: %s %s %s\n", r, st.s.size,
		       (unsigned long long)st.s.mask, (unsigned long long)st.s.magic, st.s.flags, (unsigned long long)st.s.attr,
		       (unsigned long long)st.s.propagation, !!st.s.group, text + st.s.type, text + st.s.root, text + st.s.point);
		struct statx sx;
		statx(AT_FDCWD, text + st.s.point, 0, 0x4000, &sx);
		printf("unique id %d\n", st.s.id == sx.stx_mnt_id);
	}
	OK(syscall(457, &req, &st, sizeof st, 1));
	OK(syscall(457, &req, &st, 512, 0));
	OK(syscall(457, &req, &st, 520, 0));
	req.param = 3;
	OK(syscall(457, &req, &st, 100, 0));
	printf("size %u\n", st.s.size);
	req.id = 12;
	OK(syscall(457, &req, &st, sizeof st, 0));
	req.id = 1ULL << 62;
	OK(syscall(457, &req, &st, sizeof st, 0));
	OK(umount2("/a", MNT_DETACH));
}

int main(void)
{
	char dir[] = "/tmp/mounts.XXXXXX";
	if (!mkdtemp(dir))
		return 1;
	pid_t child = fork();
	if (!child) {
		world(dir);
		old_calls();
		new_calls();
		by_descriptor();
		fflush(stdout);
		_exit(0);
	}
	int status;
	waitpid(child, &status, 0);
	rmdir(dir);
	return status ? 1 : 0;
}
