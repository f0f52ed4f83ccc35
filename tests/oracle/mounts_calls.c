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
		fflush(stdout);
		_exit(0);
	}
	int status;
	waitpid(child, &status, 0);
	rmdir(dir);
	return status ? 1 : 0;
}
