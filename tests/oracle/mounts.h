/* A mount namespace of its own for programs about mounts: the root is a tmpfs of source "world" with the directories a, b and
 * c, each with x and y, and the file f. proc_fd is a proc that is mounted nowhere any more. */
#include <sys/mount.h>
#include <sys/prctl.h>

static int proc_fd;

static void skeleton(const char *top)
{
	char name[64];
	const char *const dirs[] = { "x", "y", "x/x", "x/y" };
	for (unsigned i = 0; i < 4; i++) {
		snprintf(name, sizeof name, "%s/%s", top, dirs[i]);
		mkdir(name, 0755);
	}
}

static void world_failed(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

static void world(const char *dir)
{
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		world_failed("unshare");
	proc_fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (proc_fd < 0 || mount("world", dir, "tmpfs", 0, "mode=755") || chdir(dir) || mkdir("old", 0755))
		world_failed("mount");
	if (syscall(SYS_pivot_root, ".", "old") || chdir("/") || umount2("/old", MNT_DETACH) || rmdir("/old"))
		world_failed("pivot_root");
	for (const char *d = "abc"; *d; d++) {
		char name[3] = { '/', *d, 0 };
		mkdir(name, 0755);
		skeleton(name);
	}
	close(open("/f", O_CREAT | O_WRONLY, 0644));
}
