/* oracle: root
 * Owners, groups, device nodes, and the permission checks that follow from them, as root and after dropping root. */
#include "oracle.h"
#include <grp.h>
#include <sys/sysmacros.h>

static void show(const char *p)
{
	struct stat st;
	if (lstat(p, &st)) printf("%s: %s\n", p, name_of(errno));
	else printf("%s: mode %o %d:%d rdev %d:%d\n", p, st.st_mode, st.st_uid, st.st_gid, major(st.st_rdev), minor(st.st_rdev));
}
static void drop(uid_t u, gid_t g)
{
	M(setgroups(0, NULL));
	M(setresgid(g, g, g));
	M(setresuid(u, u, u));
}

int main(void)
{
	umask(0);
	M(chmod(".", 0777));
	put_file("f", "data", 0640);
	M(mkdir("d", 0750));
	M(symlink("f", "ln"));
	show("f");
	T(chown("f", 1000, 2000));
	show("f");
	T(chown("f", -1, 3000));
	show("f");
	T(lchown("ln", 7, 8));
	show("ln");
	show("f");
	T(chown("ln", 1000, 1000));
	show("f");
	T(chown("d", 1000, 1000));
	show("d");
	T(chown("missing", 1, 1));
	T(fchownat(AT_FDCWD, "ln", 9, 9, AT_SYMLINK_NOFOLLOW));
	show("ln");
	M(chmod("f", 06755));
	T(chown("f", 1000, 1000));
	show("f");
	M(chmod("f", 02644));
	T(chown("f", 1000, 1000));
	show("f");
	T(mknod("null", S_IFCHR | 0666, makedev(1, 3)));
	T(mknod("block", S_IFBLK | 0660, makedev(7, 200)));
	T(mknod("pipe", S_IFIFO | 0600, 0));
	T(mknod("sock", S_IFSOCK | 0600, 0));
	T(mknod("reg", S_IFREG | 0604, 0));
	T(mknod("zero_type", 0644, 0));
	T(mknod("dir", S_IFDIR | 0755, 0));
	T(mknod("null", S_IFCHR | 0666, makedev(1, 3)));
	show("null");
	show("block");
	show("pipe");
	show("sock");
	show("reg");
	show("zero_type");
	T(chown("null", 5, 6));
	show("null");
	T(open("sock", O_RDWR));
	T(rename("null", "null2"));
	show("null2");
	T(link("null2", "null3"));
	show("null3");
	T(unlink("null3"));

	/* 1000:1000 owns d (0750) and f. */
	put_file("d/inside", "in", 0600);
	M(chown("d/inside", 1000, 1000));
	M(chmod("f", 0640));
	CHILD("owner", {
		drop(1000, 1000);
		print_file("f");
		print_file("d/inside");
		put_file("d/made", "m", 0666);
		show("d/made");
		T(chmod("f", 0600));
		T(chown("f", 1001, -1));
		T(chown("f", -1, 1000));
		T(chown("f", -1, 0));
		T(link("f", "d/hard"));
		T(mknod("d/dev", S_IFCHR | 0600, makedev(1, 3)));
	});
	CHILD("group", {
		drop(1001, 1000);
		print_file("f");
		print_file("d/inside");
		T(open("d/new", O_CREAT | O_WRONLY, 0600));
		T(chmod("f", 0777));
		T(unlink("d/made"));
	});
	CHILD("supplementary group", {
		gid_t g[1] = { 1000 };
		M(setgroups(1, g));
		M(setresgid(5, 5, 5));
		M(setresuid(1001, 1001, 1001));
		T(access("d/inside", F_OK));
		T(access("d", R_OK | X_OK));
		T(access("d", W_OK));
	});
	CHILD("others", {
		drop(1001, 1001);
		print_file("f");
		print_file("d/inside");
		T(access("d", X_OK));
		T(chdir("d"));
		T(open("d", O_RDONLY));
		put_file("mine", "x", 0600);
		show("mine");
		T(utimensat(AT_FDCWD, "f", NULL, 0));
	});
	print_file("mine");
	/* Sticky directories. */
	M(mkdir("sticky", 01777));
	CHILD("one", { drop(1000, 1000); put_file("sticky/a", "a", 0666); M(mkdir("sticky/dir", 0777)); });
	CHILD("two", {
		drop(1001, 1001);
		T(unlink("sticky/a"));
		T(rename("sticky/a", "sticky/b"));
		T(rmdir("sticky/dir"));
		print_file("sticky/a");
		put_file("sticky/b", "b", 0666);
		T(rename("sticky/b", "sticky/a"));
		T(rename("sticky/b", "sticky/c"));
	});
	CHILD("one again", { drop(1000, 1000); T(unlink("sticky/a")); T(unlink("sticky/c")); });
	/* Directories with the group bit hand their group on. */
	M(mkdir("sg", 0777));
	M(chown("sg", 0, 4000));
	M(chmod("sg", 02777));
	CHILD("in sg", { drop(1000, 1000); put_file("sg/f", "", 0644); M(mkdir("sg/d", 0755)); put_file("sg/d/f", "", 02755); });
	show("sg/f");
	show("sg/d");
	show("sg/d/f");
	/* Set-id bits are cleared when a stranger writes. */
	put_file("suid", "x", 0);
	M(chmod("suid", 06777));
	CHILD("writer", { drop(1000, 1000); int fd = M(open("suid", O_WRONLY | O_TRUNC)); T(write(fd, "y", 1)); });
	show("suid");
	M(chmod("suid", 06777));
	CHILD("root writes", { int fd = M(open("suid", O_WRONLY)); T(write(fd, "y", 1)); });
	show("suid");
	/* access(2) asks for the real ids. */
	CHILD("real ids", {
		put_file("rootonly", "x", 0600);
		M(setresuid(1000, 0, 0));
		T(access("rootonly", R_OK));
		T(faccessat(AT_FDCWD, "rootonly", R_OK, AT_EACCESS));
	});
	/* Execution needs one x bit, even for root. */
	put_file("nox", "#!/bin/true\n", 0666);
	T(access("nox", X_OK));
	CHILD("nox", T(execl("./nox", "nox", NULL)));
	M(chmod("nox", 0001));
	T(access("nox", X_OK));
	/* chroot. */
	M(mkdir("jail", 0755));
	put_file("jail/file", "jailed", 0644);
	M(symlink("/file", "jail/abs"));
	M(symlink("../../../../file", "jail/rel"));
	CHILD("chroot", {
		int out = M(open(".", O_RDONLY | O_DIRECTORY));
		T(chroot("jail"));
		print_file("/file");
		T(access("jail", F_OK));
		T(chdir("/"));
		char b[4200];
		printf("cwd %s\n", getcwd(b, sizeof b));
		print_file("abs");
		print_file("rel");
		print_file("../../file");
		T(chdir("/.."));
		printf("cwd %s\n", getcwd(b, sizeof b));
		T(access("/etc/passwd", F_OK));
		T(fchdir(out));
		T(access("jail/file", F_OK));
		long n = syscall(SYS_getcwd, b, sizeof b);
		printf("outside the root: %d\n", n > 0 && strncmp(b, "(unreachable)", 13) == 0);
		T(chroot("missing"));
		T(chroot("f"));
	});
	CHILD("chroot by a user", { drop(1000, 1000); T(chroot("jail")); });
	return 0;
}
