/* oracle: root
 * Access control lists (acl(5)): what they allow, how chmod and they follow each other, what is inherited, what is refused. */
#include "oracle.h"
#include <grp.h>
#include <sys/xattr.h>

#define ACCESS "system.posix_acl_access"
#define DEFAULT "system.posix_acl_default"
enum { U_OBJ = 1, U = 2, G_OBJ = 4, G = 8, MASK = 16, OTHER = 32 };

struct entry {
	uint16_t tag, perm;
	uint32_t id;
};
struct list {
	uint32_t version;
	struct entry e[8];
};

static int set_list(const char *path, const char *name, int n, ...)
{
	struct list l = {2, {{0}}};
	va_list ap;
	va_start(ap, n);
	for (int i = 0; i < n; i++) {
		l.e[i].tag = va_arg(ap, int);
		l.e[i].perm = va_arg(ap, int);
		l.e[i].id = va_arg(ap, int);
	}
	va_end(ap);
	return setxattr(path, name, &l, 4 + 8 * n, 0);
}

static void show(const char *path)
{
	struct stat st;
	lstat(path, &st);
	printf("%s %o %u:%u", path, st.st_mode, st.st_uid, st.st_gid);
	for (int d = 0; d < 2; d++) {
		struct list l;
		ssize_t len = lgetxattr(path, d ? DEFAULT : ACCESS, &l, sizeof l);
		if (len < 0) {
			printf(" %s", name_of(errno));
			continue;
		}
		printf(" [");
		for (int i = 0; i < (len - 4) / 8; i++)
			printf("%s%x:%d:%o", i ? " " : "", l.e[i].tag, (int)l.e[i].id, l.e[i].perm);
		printf("]");
	}
	printf("\n");
}

static void as(int uid, int gid, const char *path)
{
	fflush(stdout);
	if (fork() == 0) {
		setgroups(0, NULL);
		if (setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
			_exit(1);
		printf("%d:%d %s: read %d write %d exec %d;", uid, gid, path, access(path, R_OK), access(path, W_OK), access(path, X_OK));
		int fd = open(path, O_RDWR);
		printf(" open %s; chmod %s;", fd < 0 ? name_of(errno) : "0", chmod(path, 0777) ? name_of(errno) : "0");
		printf(" setxattr %s\n", set_list(path, ACCESS, 3, U_OBJ, 7, -1, G_OBJ, 7, -1, OTHER, 7, -1) ? name_of(errno) : "0");
		_exit(0);
	}
	wait(NULL);
}

int main(void)
{
	umask(022);
	mkdir("t", 0755);
	if (chdir("t"))
		return 1;
	close(open("f", O_CREAT | O_WRONLY, 0640));
	show("f");
	T(set_list("f", ACCESS, 6, U_OBJ, 6, -1, U, 4, 1000, G_OBJ, 0, -1, G, 6, 50, MASK, 6, -1, OTHER, 0, -1));
	show("f");
	as(1000, 1000, "f");
	as(1001, 50, "f");
	as(1001, 0, "f");
	as(1001, 1001, "f");
	T(chmod("f", 0740));
	show("f");
	as(1001, 50, "f");
	T(chmod("f", 0600));
	as(1000, 1000, "f");
	T(chown("f", 1000, 7));
	T(chmod("f", 02666));
	show("f");
	/* What a mode can say is a mode. */
	T(set_list("f", ACCESS, 3, U_OBJ, 7, -1, G_OBJ, 5, -1, OTHER, 1, -1));
	show("f");
	T(set_list("f", ACCESS, 4, U_OBJ, 7, -1, G_OBJ, 5, -1, MASK, 4, -1, OTHER, 1, -1));
	show("f");
	T(removexattr("f", ACCESS));
	T(removexattr("f", ACCESS));
	show("f");
	/* Refused. */
	T(set_list("f", DEFAULT, 3, U_OBJ, 7, -1, G_OBJ, 5, -1, OTHER, 1, -1));
	T(removexattr("f", DEFAULT));
	T(set_list("f", ACCESS, 2, U_OBJ, 7, -1, G_OBJ, 5, -1));
	T(set_list("f", ACCESS, 4, U_OBJ, 7, -1, U, 7, 5, G_OBJ, 5, -1, OTHER, 0, -1));
	T(set_list("f", ACCESS, 3, OTHER, 7, -1, G_OBJ, 5, -1, U_OBJ, 0, -1));
	T(set_list("f", ACCESS, 3, U_OBJ, 9, -1, G_OBJ, 5, -1, OTHER, 0, -1));
	T(setxattr("f", ACCESS, "\1\0\0\0", 4, 0));
	T(setxattr("f", ACCESS, "\2\0\0\0abc", 7, 0));
	T(setxattr("f", ACCESS, "\2\0\0\0", 4, 0));
	T(symlink("f", "l"));
	T(lsetxattr("l", ACCESS, "\2\0\0\0", 4, 0));
	T(lgetxattr("l", ACCESS, NULL, 0));
	/* Inherited. */
	T(mkdir("d", 0755));
	T(set_list("d", DEFAULT, 5, U_OBJ, 7, -1, U, 7, 1000, G_OBJ, 5, -1, MASK, 7, -1, OTHER, 0, -1));
	show("d");
	close(open("d/f", O_CREAT | O_WRONLY, 0666));
	close(open("d/g", O_CREAT | O_WRONLY, 0600));
	mkdir("d/s", 0777);
	mkdir("d/s/deep", 0710);
	mkfifo("d/p", 0666);
	mknod("d/n", S_IFREG | 0444, 0);
	symlink("f", "d/l");
	static const char *made[] = {"d/f", "d/g", "d/s", "d/s/deep", "d/p", "d/n", "d/l"};
	for (int i = 0; i < 7; i++)
		show(made[i]);
	as(1000, 1000, "d/f");
	T(rename("d/f", "f2"));
	show("f2");
	T(link("d/g", "g2"));
	T(unlink("d/g"));
	show("g2");
	T(set_list("d", ACCESS, 5, U_OBJ, 7, -1, U, 0, 1000, G_OBJ, 5, -1, MASK, 5, -1, OTHER, 5, -1));
	as(1000, 1000, "d/n");
	as(1001, 1001, "d/n");
	T(removexattr("d", DEFAULT));
	close(open("d/plain", O_CREAT | O_WRONLY, 0666));
	show("d/plain");
	return 0;
}
