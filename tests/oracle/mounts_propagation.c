/* oracle: root
 * Who may change the propagation of which mount, and what may be moved where: may_change_propagation, do_move_mount,
 * do_set_group. */
#include "oracle.h"
#include "mounts.h"

#define open_tree(fd, path, flags) ((int)syscall(SYS_open_tree, fd, path, flags))
#define move_mount(from, path, to, topath, flags) syscall(SYS_move_mount, from, path, to, topath, flags)
#define CLONE_TREE 1
#define SET_GROUP 0x100
#define BENEATH 0x200

struct attr {
	uint64_t set, clr, propagation, userns_fd;
};

static char name[64];

static const char *of(int fd)
{
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	return name;
}

static int propagate(const char *path, unsigned long kind)
{
	return mount(NULL, path, NULL, kind, NULL);
}

/* The optional fields of every line of mountinfo, groups numbered as they come. */
static void table(void)
{
	char line[512], *p;
	int groups[64], n = 0;
	int fd = openat(proc_fd, "self/mountinfo", O_RDONLY);
	FILE *f = fdopen(fd, "r");
	while (f && fgets(line, sizeof line, f)) {
		char root[128], at[128];
		sscanf(line, "%*d %*d %*s %127s %127s", root, at);
		printf("  %s at %s:", root, at);
		char *end = strstr(line, " - ");
		for (p = strtok(line, " "); p && p < end; p = strtok(NULL, " ")) {
			char *colon = strchr(p, ':');
			if (strcmp(p, "unbindable") == 0) printf(" unbindable");
			if (!colon || colon[-1] < 'a') continue;
			int group = atoi(colon + 1), i = 0;
			while (i < n && groups[i] != group) i++;
			if (i == n) groups[n++] = group;
			*colon = 0;
			printf(" %s:%c", p, 'A' + i);
		}
		puts("");
	}
	if (f) fclose(f);
}

/* What a caller without power over the namespace of a mount may do with it, and what one who has it may. */
static void namespaces(void)
{
	int root = M(open("/", O_PATH)), a = M(open("/a", O_PATH)), up[2], down[2];
	M(pipe(up));
	M(pipe(down));
	M(fflush(stdout));
	pid_t child = fork();
	if (!child) {
		char c;
		M(unshare(CLONE_NEWUSER | CLONE_NEWNS));
		puts("a user namespace, on mounts of the other namespace");
		T(propagate(of(root), MS_PRIVATE));
		T(propagate(of(a), MS_SHARED));
		T(propagate(of(a), MS_UNBINDABLE));
		T(open_tree(a, "", AT_EMPTY_PATH | CLONE_TREE));
		T(move_mount(a, "", AT_FDCWD, "/b", 4));
		T(umount2(of(a), MNT_DETACH));
		struct attr ro = { .set = 1 }, shared = { .propagation = MS_SHARED };
		T(syscall(SYS_mount_setattr, a, "", AT_EMPTY_PATH, &ro, sizeof ro));
		T(syscall(SYS_mount_setattr, a, "", AT_EMPTY_PATH, &shared, sizeof shared));
		puts("and on its own, which are locked");
		T(propagate("/a", MS_SHARED));
		T(propagate("/a", MS_SLAVE));
		T(umount2("/a", MNT_DETACH));
		T(mount("/a", "/b", NULL, MS_MOVE, NULL));
		T(mount("/a", "/c", NULL, MS_BIND, NULL));
		T(mount("/", "/c", NULL, MS_BIND, NULL));
		M(write(up[1], "x", 1));
		M(read(down[0], &c, 1));
		_exit(0);
	}
	char c, path[64];
	M(read(up[0], &c, 1));
	snprintf(path, sizeof path, "%d/root/a", child);
	int theirs = openat(proc_fd, path, O_PATH);
	puts("the initial one, on mounts of the child's");
	T(propagate(of(theirs), MS_SHARED));
	T(propagate(of(theirs), MS_PRIVATE));
	T(mount(of(theirs), "/c", NULL, MS_BIND, NULL));
	T(umount2(of(theirs), MNT_DETACH));
	M(write(down[1], "x", 1));
	reap("child", child);
	puts("when the namespace is gone");
	T(propagate(of(theirs), MS_SHARED));
	close(theirs);
	close(root);
	close(a);
	CHILD("an ordinary user", {
		M(setresuid(1000, 1000, 1000));
		T(propagate("/a", MS_SHARED));
		T(propagate("/none", MS_SHARED));
		T(propagate("/a", MS_SHARED | MS_PRIVATE));
	});
}

static void detached(void)
{
	puts("detached");
	int tree = M(open_tree(AT_FDCWD, "/a", CLONE_TREE));
	T(propagate(of(tree), MS_SHARED));
	T(propagate(of(tree), MS_UNBINDABLE));
	T(propagate(of(tree), MS_PRIVATE));
	M(mkdir("/b/m", 0755));
	M(mount("m", "/b/m", "tmpfs", 0, NULL));
	int gone = M(open("/b/m", O_PATH));
	M(umount2("/b/m", MNT_DETACH));
	puts("unmounted");
	T(propagate(of(gone), MS_SHARED));
	T(propagate(of(gone), MS_PRIVATE));
	T(mount(of(gone), "/c", NULL, MS_BIND, NULL));
	T(move_mount(gone, "", AT_FDCWD, "/c", 4));
	T(move_mount(tree, "", AT_FDCWD, "/f", 4));
	T(move_mount(tree, "x", AT_FDCWD, "/c", 4));
	T(move_mount(tree, "", AT_FDCWD, "/c", 4));
	T(move_mount(tree, "", AT_FDCWD, "/b", 4));
	T(umount2("/b", 0));
	close(tree);
	close(gone);
}

static void moving(void)
{
	puts("moving");
	M(mount("p", "/b", "tmpfs", 0, NULL));
	M(mkdir("/b/one", 0755));
	M(mkdir("/b/two", 0755));
	M(mount("q", "/b/one", "tmpfs", 0, NULL));
	M(mkdir("/b/one/in", 0755));
	T(mount("/b/one", "/b/one/in", NULL, MS_MOVE, NULL));
	T(mount("/b", "/b/two", NULL, MS_MOVE, NULL));
	T(mount("/b/one/in", "/b/two", NULL, MS_MOVE, NULL));
	T(mount("/b/one", "/f", NULL, MS_MOVE, NULL));
	T(mount("/b/one", "/none", NULL, MS_MOVE, NULL));
	T(propagate("/b", MS_SHARED));
	T(mount("/b/one", "/c", NULL, MS_MOVE, NULL));
	T(mount("/b/one", "/b/two", NULL, MS_MOVE, NULL));
	T(propagate("/b", MS_PRIVATE));
	T(mount("/b/one", "/b/two", NULL, MS_MOVE, NULL));
	T(propagate("/b/two", MS_SHARED));
	T(mount("/b/two", "/b/one", NULL, MS_MOVE, NULL));
	T(propagate("/b/one", MS_UNBINDABLE));
	T(mount("/b/one", "/b/two", NULL, MS_MOVE, NULL));
	T(mount("/b/two", "/c", NULL, MS_BIND, NULL));
	T(mount("/b", "/c", NULL, MS_BIND | MS_REC, NULL));
	T(propagate("/b", MS_SHARED));
	M(mount("r", "/c/two", "tmpfs", 0, NULL));
	T(propagate("/c/two", MS_UNBINDABLE));
	T(mount("/c/two", "/b/one", NULL, MS_MOVE, NULL));
	T(mount("/", "/b/one", NULL, MS_MOVE, NULL));
	T(propagate("/b", MS_SLAVE));
	T(propagate("/b", MS_SHARED));
	T(propagate("/b", MS_SHARED));
	table();
	T(umount2("/c/two", MNT_DETACH));
	T(umount2("/c", MNT_DETACH));
	T(umount2("/b", MNT_DETACH));
}

static void beneath(void)
{
	puts("beneath");
	M(mount("low", "/b", "tmpfs", 0, NULL));
	int tree = M(open_tree(AT_FDCWD, "/a", CLONE_TREE));
	T(move_mount(tree, "", AT_FDCWD, "/c/x", 4 | BENEATH));
	T(move_mount(tree, "", AT_FDCWD, "/", 4 | BENEATH));
	T(move_mount(tree, "", AT_FDCWD, "/b", 4 | BENEATH));
	T(move_mount(AT_FDCWD, "/b", AT_FDCWD, "/b", BENEATH));
	T(move_mount(AT_FDCWD, "/b", AT_FDCWD, "/a", BENEATH));
	table();
	T(umount2("/b", 0));
	T(umount2("/b", MNT_DETACH));
	T(umount2("/a", MNT_DETACH));
	close(tree);
}

static void groups(void)
{
	puts("set group");
	M(mount("one", "/b", "tmpfs", 0, NULL));
	M(mkdir("/b/d", 0755));
	M(mount("/b", "/c", NULL, MS_BIND, NULL));
	T(move_mount(AT_FDCWD, "/b", AT_FDCWD, "/c", SET_GROUP));
	M(propagate("/b", MS_SHARED));
	T(move_mount(AT_FDCWD, "/b", AT_FDCWD, "/a", SET_GROUP));
	T(move_mount(AT_FDCWD, "/b/d", AT_FDCWD, "/c", SET_GROUP));
	T(move_mount(AT_FDCWD, "/b", AT_FDCWD, "/c/d", SET_GROUP));
	T(move_mount(AT_FDCWD, "/b", AT_FDCWD, "/c", SET_GROUP));
	T(move_mount(AT_FDCWD, "/b", AT_FDCWD, "/c", SET_GROUP));
	table();
	M(propagate("/c", MS_SLAVE));
	M(mount("/b/d", "/a/x", NULL, MS_BIND, NULL));
	M(propagate("/a/x", MS_PRIVATE));
	T(move_mount(AT_FDCWD, "/c", AT_FDCWD, "/a/x", SET_GROUP));
	T(move_mount(AT_FDCWD, "/a/x", AT_FDCWD, "/c", SET_GROUP));
	M(mount("other", "/a/y", "tmpfs", 0, NULL));
	T(move_mount(AT_FDCWD, "/b", AT_FDCWD, "/a/y", SET_GROUP));
	table();
	CHILD("an ordinary user", {
		M(setresuid(1000, 1000, 1000));
		T(move_mount(AT_FDCWD, "/b", AT_FDCWD, "/c", SET_GROUP));
	});
}

int main(void)
{
	char dir[] = "/tmp/mounts.XXXXXX";
	if (!mkdtemp(dir)) return 1;
	pid_t child = fork();
	if (!child) {
		world(dir);
		mkdir("/proc", 0755);
		M(mount("proc", "/proc", "proc", 0, NULL));
		M(mount("a", "/a", "tmpfs", 0, NULL));
		M(mkdir("/a/x", 0755));
		M(mkdir("/a/y", 0755));
		namespaces();
		detached();
		T(umount2("/c", MNT_DETACH));
		T(umount2("/c", MNT_DETACH));
		moving();
		beneath();
		groups();
		fflush(stdout);
		_exit(0);
	}
	int status;
	waitpid(child, &status, 0);
	rmdir(dir);
	return status ? 1 : 0;
}
