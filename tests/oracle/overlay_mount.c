/* oracle: root
 * overlayfs(5) as guests mount it: options and their refusals, several lower layers, whiteouts, opaque directories, redirects,
 * hard links, what the upper directory holds afterwards. All on a tmpfs of its own. */
#include "oracle.h"
#include <dirent.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

static void put(const char *path, const char *text)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		printf("put %s: %s\n", path, name_of(errno));
	close(fd);
}

static const char *get(const char *path)
{
	static char text[64];
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		return name_of(errno);
	ssize_t n = read(fd, text, sizeof text - 1);
	text[n < 0 ? 0 : n] = 0;
	close(fd);
	return text;
}

static int not_dots(const struct dirent *e)
{
	return e->d_name[0] != '.';
}

/* Everything below a directory: types, modes, sizes, links, targets, and marks. */
static void tree(const char *path)
{
	struct dirent **names;
	int n = scandir(path, &names, not_dots, alphasort);
	for (int i = 0; i < n; i++) {
		char at[600], value[64];
		struct stat st;
		snprintf(at, sizeof at, "%s/%s", path, names[i]->d_name);
		lstat(at, &st);
		printf("  %s %o %u:%u", at, st.st_mode, st.st_uid, st.st_gid);
		printf(names[i]->d_ino == st.st_ino ? "" : " d_ino differs");
		printf(names[i]->d_type == st.st_mode >> 12 ? "" : " d_type differs");
		if (S_ISREG(st.st_mode))
			printf(" links %d \"%s\"", (int)st.st_nlink, get(at));
		if (S_ISCHR(st.st_mode))
			printf(" device %d:%d", major(st.st_rdev), minor(st.st_rdev));
		for (const char *mark = "opaque\0redirect\0"; *mark; mark += strlen(mark) + 1) {
			for (int user = 0; user < 2; user++) {
				char name[64];
				snprintf(name, sizeof name, "%s.overlay.%s", user ? "user" : "trusted", mark);
				ssize_t len = lgetxattr(at, name, value, sizeof value);
				if (len >= 0)
					printf(" %s=%.*s", name, (int)len, value);
			}
		}
		printf("\n");
		if (S_ISDIR(st.st_mode))
			tree(at);
		free(names[i]);
	}
	free(names);
}

static void show(const char *path)
{
	printf("%s:\n", path);
	tree(path);
}

static void try(const char *options)
{
	int r = mount("overlay", "m", "overlay", 0, options);
	printf("%s: %s\n", options, r ? name_of(errno) : "mounted");
	if (!r)
		umount("m");
}

static void fresh(void)
{
	umount2("m", MNT_DETACH);
	umount2("n", MNT_DETACH);
	chdir("/");
	umount2("/mnt", MNT_DETACH);
	if (mount("t", "/mnt", "tmpfs", 0, "mode=755") || chdir("/mnt")) {
		printf("no tmpfs: %s\n", name_of(errno));
		exit(1);
	}
	for (const char *dir = "a\0b\0u\0w\0m\0n\0"; *dir; dir += strlen(dir) + 1)
		mkdir(dir, 0755);
	mkdir("a/d", 0755);
	mkdir("b/d", 0750);
	put("a/both", "a");
	put("b/both", "b");
	put("b/low", "low");
	put("a/d/x", "ax");
	put("b/d/y", "by");
	symlink("both", "b/link");
	chown("b/low", 3, 4);
	chmod("b/low", 04711);
}

static void options(void)
{
	fresh();
	mkdir("u/sub", 0755);
	mkdir("u/w", 0755);
	static const char *list[] = {
		"", "lowerdir=a", "lowerdir=a:b", "lowerdir=a,upperdir=u", "upperdir=u,workdir=w",
		"lowerdir=a,workdir=w,upperdir=u", "lowerdir=a,workdir=u/w,upperdir=u", "lowerdir=a,workdir=u,upperdir=u",
		"lowerdir=u,workdir=w,upperdir=u", "lowerdir=u/sub,workdir=w,upperdir=u", "lowerdir=a:a/d,workdir=w,upperdir=u",
		"lowerdir=a:a,workdir=w,upperdir=u", "lowerdir=missing,workdir=w,upperdir=u", "lowerdir=a/both:b",
		"lowerdir=a:b,nonsense", "lowerdir=a:b,index=maybe", "lowerdir=a:b,redirect_dir=1", "lowerdir=a:b,xino=auto",
		"lowerdir=a:b,index=on", "lowerdir=a::b", "lowerdir=:a", "lowerdir=a:", "lowerdir=a:b:", "lowerdir=/mnt,upperdir=u,workdir=w",
		"lowerdir=a,upperdir=u,workdir=w,userxattr,redirect_dir=on", "lowerdir=a,upperdir=u,workdir=w,userxattr,metacopy=on",
		"lowerdir=a,upperdir=u,workdir=w,userxattr", "lowerdir=a,upperdir=u,workdir=w,redirect_dir=follow",
	};
	for (size_t i = 0; i < sizeof list / sizeof *list; i++)
		try(list[i]);
	mkdir("c:d", 0755);
	try("lowerdir=c\\:d:b");
	try("lowerdir=c:d:b");
	T(mount("o", "n", "overlay", 0, "lowerdir=a:b"));
	T(open("n/new", O_CREAT | O_WRONLY, 0644));
	T(mount("o", "n", "overlay", MS_REMOUNT, ""));
	try("lowerdir=n:u/sub");
	mkdir("o", 0755);
	T(mount("o", "o", "overlay", 0, "lowerdir=n:u/sub"));
	try("lowerdir=o:b");
	T(umount("o"));
	try("lowerdir=a,upperdir=n,workdir=w");
	try("lowerdir=a,upperdir=u,workdir=w,volatile");
	try("lowerdir=a,upperdir=u,workdir=w");
}

static void changes(const char *extra)
{
	char line[128];
	struct stat st;
	struct statfs fs;
	fresh();
	snprintf(line, sizeof line, "lowerdir=a:b,upperdir=u,workdir=w%s", extra);
	printf("== %s\n", line);
	T(mount("overlay", "m", "overlay", 0, line));
	statfs("m", &fs);
	printf("type %lx\n", (long)fs.f_type);
	show("m");
	T(unlink("m/both"));
	T(unlink("m/d/y"));
	T(rmdir("m/d"));
	T(chmod("m/d/x", 0600));
	T(rename("m/d", "m/e"));
	T(rename("m/low", "m/both"));
	T(link("m/both", "m/hard"));
	T(link("m/link", "m/hardlink"));
	T(mkdir("m/new", 01777));
	T(rename("m/new", "m/low"));
	T(mknod("m/null", S_IFCHR | 0666, makedev(1, 3)));
	T(mknod("m/white", S_IFCHR | 0666, 0));
	T(mkfifo("m/fifo", 0644));
	T(syscall(SYS_renameat2, AT_FDCWD, "m/null", AT_FDCWD, "m/x", 4));
	T(syscall(SYS_renameat2, AT_FDCWD, "m/hard", AT_FDCWD, "m/both", 1));
	T(syscall(SYS_renameat2, AT_FDCWD, "m/fifo", AT_FDCWD, "m/low", 2));
	T(setxattr("m/both", "trusted.overlay.opaque", "y", 1, 0));
	T(getxattr("m/both", "trusted.overlay.opaque", line, sizeof line));
	T(setxattr("m/both", "user.a", "1", 1, 0));
	T(listxattr("m/both", line, sizeof line));
	show("m");
	/* A handle of a lower file stays what it was; one for writing is of the copy. */
	int fd = open("m/d/x", O_RDONLY);
	put("m/d/x", "changed");
	printf("x: %s\n", get("m/d/x"));
	close(fd);
	fd = open("m/link", O_RDWR);
	T(unlink("m/link"));
	T(fstat(fd, &st));
	close(fd);
	fd = open("m/.", O_TMPFILE | O_RDWR, 0600);
	T(fchmod(fd, 0640));
	close(fd);
	T(unlink("m/d/x"));
	T(rmdir("m/d"));
	T(mkdir("m/d", 0700));
	T(rename("m/e", "m/f"));
	show("m");
	T(umount("m"));
	show("a");
	show("b");
	show("u");
	snprintf(line, sizeof line, "lowerdir=u:a:b%s", strstr(extra, "userxattr") ? ",userxattr" : "");
	T(mount("overlay", "n", "overlay", 0, line));
	show("n");
}

static void lower_whiteouts(void)
{
	fresh();
	printf("== whiteouts in lower layers\n");
	T(mknod("a/low", S_IFCHR, 0));
	T(setxattr("a/d", "trusted.overlay.opaque", "y", 1, 0));
	T(mount("overlay", "m", "overlay", 0, "lowerdir=a:b,upperdir=u,workdir=w"));
	show("m");
	put("m/low", "again");
	T(mkdir("m/d/y", 0755));
	show("u");
}

/* A file that was opened through the overlay holds it, leads back into it, and can be mounted over by its descriptor. */
static void open_files(void)
{
	char link[64], target[256];
	static const char layers[] = "lowerdir=a:b,upperdir=u,workdir=w";
	fresh();
	printf("== open files\n");
	T(mount("overlay", "m", "overlay", 0, layers));
	int made = open("m/d/made", O_CREAT | O_WRONLY, 0644), read = open("m/low", O_RDONLY);
	for (int i = 0; i < 2; i++) {
		snprintf(link, sizeof link, "/proc/self/fd/%d", i ? read : made);
		ssize_t n = readlink(link, target, sizeof target);
		printf("  opened: %.*s\n", n < 0 ? 0 : (int)n, target);
	}
	T(umount("m"));
	put("over", "over");
	snprintf(link, sizeof link, "/proc/self/fd/%d", made);
	T(mount("over", link, NULL, MS_BIND, NULL));
	printf("  m/d/made \"%s\"", get("m/d/made"));
	printf(" u/d/made \"%s\"\n", get("u/d/made"));
	T(umount("m/d/made"));
	close(made);
	T(umount("m"));
	close(read);
	T(umount("m"));
	/* By its layer it holds only that. */
	T(mount("overlay", "m", "overlay", 0, layers));
	made = open("a/both", O_RDONLY);
	T(umount("m"));
	close(made);
	/* The mounts its layers were named by can go. */
	T(mount("t", "n", "tmpfs", 0, ""));
	for (const char *dir = "n/u\0n/w\0n/l\0"; *dir; dir += strlen(dir) + 1)
		M(mkdir(dir, 0755));
	T(mount("overlay", "m", "overlay", 0, "lowerdir=n/l:a,upperdir=n/u,workdir=n/w"));
	T(umount("n"));
	put("m/after", "after");
	printf("  m/after \"%s\" m/both \"%s\"\n", get("m/after"), get("m/both"));
	T(umount("m"));
}

/* Whiteouts and opaque directories as an ordinary user can write them (Linux 6.7). */
static void whiteouts_by_attribute(const char *prefix, const char *options)
{
	char name[64], line[128];
	fresh();
	printf("== whiteouts by attribute, %s\n", prefix);
	put("a/low", "");
	put("a/d/y", "");
	put("a/d/shown", "");
	put("a/link", "not empty");
	snprintf(name, sizeof name, "%s.overlay.whiteout", prefix);
	T(setxattr("a/low", name, "y", 1, 0));
	T(setxattr("a/d/y", name, "y", 1, 0));
	T(setxattr("a/link", name, "y", 1, 0));
	snprintf(line, sizeof line, "lowerdir=a:b,upperdir=u,workdir=w%s", options);
	T(mount("overlay", "m", "overlay", 0, line));
	/* The directory must say that it has some. */
	show("m");
	T(umount("m"));
	snprintf(name, sizeof name, "%s.overlay.opaque", prefix);
	T(setxattr("a", name, "x", 1, 0));
	T(setxattr("a/d", name, "x", 1, 0));
	T(mount("overlay", "m", "overlay", 0, line));
	show("m");
	put("m/low", "again");
	T(mkdir("m/d/y", 0755));
	show("u");
	T(umount("m"));
}

struct id {
	dev_t dev;
	ino_t ino;
};

static struct id id_of(const char *path)
{
	struct stat st;
	if (lstat(path, &st))
		printf("stat %s: %s\n", path, name_of(errno));
	return (struct id){ st.st_dev, st.st_ino };
}

/* What stat(2) says of a directory's identity before and after it is copied up, also by an open handle and by readdir(3). */
static void identity(void)
{
	static const char *const names[] = { "m", "m/d", "m/d/deep" };
	enum { COUNT = sizeof names / sizeof *names };
	struct id before[COUNT], after[COUNT];
	struct stat st;
	fresh();
	printf("== identity\n");
	mkdir("b/d/deep", 0755);
	T(mount("overlay", "m", "overlay", 0, "lowerdir=a:b,upperdir=u,workdir=w"));
	for (int i = 0; i < COUNT; i++)
		before[i] = id_of(names[i]);
	int dir = open("m/d", O_RDONLY);
	T(chmod("m/d", 0700));
	put("m/d/deep/x", "new");
	for (int i = 0; i < COUNT; i++) {
		after[i] = id_of(names[i]);
		printf("  %s: device %s, number %s\n", names[i], before[i].dev == after[i].dev ? "same" : "other",
		       before[i].ino == after[i].ino ? "same" : "other");
	}
	fstat(dir, &st);
	printf("  by a handle from before: number %s\n", st.st_ino == before[1].ino ? "same" : "other");
	tree("m");
	close(dir);
	T(umount("m"));
}

int main(void)
{
	umask(0);
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
		printf("no namespace: %s\n", name_of(errno));
		return 1;
	}
	options();
	changes("");
	changes(",redirect_dir=on");
	changes(",userxattr");
	lower_whiteouts();
	whiteouts_by_attribute("trusted", "");
	whiteouts_by_attribute("user", ",userxattr");
	identity();
	open_files();
	return 0;
}
