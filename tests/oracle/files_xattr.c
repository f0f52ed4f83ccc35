/* oracle: user
 * Extended attributes in the user namespace, and refusals of the others. */
#include "oracle.h"
#include <sys/xattr.h>

static void list(const char *p)
{
	char b[1024];
	long n = listxattr(p, b, sizeof b);
	int users = 0, total = 0;
	if (n < 0) {
		printf("list %s: %s\n", p, name_of(errno));
		return;
	}
	for (long i = 0; i < n; i += strlen(b + i) + 1, total++)
		if (!strncmp(b + i, "user.", 5)) users++;
	printf("list %s: %d of user, %ld bytes\n", p, users, n);
}

int main(void)
{
	char b[128];
	put_file("f", "", 0644);
	M(mkdir("d", 0755));
	M(symlink("f", "ln"));
	list("f");
	T(setxattr("f", "user.one", "value", 5, 0));
	T(setxattr("f", "user.two", "", 0, 0));
	T(setxattr("f", "user.one", "other", 5, XATTR_CREATE));
	T(setxattr("f", "user.three", "x", 1, XATTR_REPLACE));
	T(setxattr("f", "user.one", "longer value", 12, XATTR_REPLACE));
	list("f");
	T(getxattr("f", "user.one", b, sizeof b));
	printf("%.12s\n", b);
	T(getxattr("f", "user.one", b, 3));
	T(getxattr("f", "user.one", NULL, 0));
	T(getxattr("f", "user.two", b, sizeof b));
	T(getxattr("f", "user.none", b, sizeof b));
	T(getxattr("ln", "user.one", b, sizeof b));
	T(lgetxattr("ln", "user.one", b, sizeof b));
	T(lsetxattr("ln", "user.one", "x", 1, 0));
	T(getxattr("missing", "user.one", b, sizeof b));
	int fd = M(open("f", O_RDONLY));
	T(fsetxattr(fd, "user.fd", "x", 1, 0));
	T(fgetxattr(fd, "user.fd", b, sizeof b));
	T(flistxattr(fd, NULL, 0));
	T(fremovexattr(fd, "user.fd"));
	T(fremovexattr(fd, "user.fd"));
	close(fd);
	T(removexattr("f", "user.one"));
	T(removexattr("f", "user.one"));
	list("f");
	T(setxattr("d", "user.dir", "x", 1, 0));
	list("d");
	int df = M(open("d", O_RDONLY | O_DIRECTORY));
	T(fgetxattr(df, "user.dir", b, sizeof b));
	T(setxattr("f", "nonsense", "x", 1, 0));
	T(setxattr("f", "nonsense.x", "x", 1, 0));
	T(setxattr("f", "user.", "x", 1, 0));
	T(setxattr("f", "", "x", 1, 0));
	T(setxattr("f", "trusted.x", "x", 1, 0));
	T(getxattr("f", "trusted.x", b, sizeof b));
	T(setxattr("f", "user.x", "x", 1, 4));
	char name[300];
	memset(name, 'n', 299);
	memcpy(name, "user.", 5);
	name[256] = 0;
	T(setxattr("f", name, "x", 1, 0));
	T(setxattr("f", "user.big", b, 70000, 0));
	M(chmod("f", 0));
	T(getxattr("f", "user.two", b, sizeof b));
	T(setxattr("f", "user.two", "x", 1, 0));
	M(chmod("f", 0444));
	T(setxattr("f", "user.two", "x", 1, 0));
	/* Attributes follow the inode. */
	M(chmod("f", 0644));
	M(link("f", "hard"));
	M(rename("f", "g"));
	T(getxattr("hard", "user.two", b, sizeof b));
	list("g");
	return 0;
}
