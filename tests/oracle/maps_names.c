/* oracle: root
 * What /proc/self/maps calls mapped files: path, device and inode number are those of the file as it was opened, on a tmpfs, by a
 * bind mount, on an overlay before and after it is copied up, renamed and deleted. In a mount namespace of its own. */
#include "oracle.h"
#include <sys/mount.h>
#include <sys/sysmacros.h>

static char base[4096];

static void put(const char *path)
{
	int fd = M(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
	M(write(fd, path, strlen(path)));
	close(fd);
}

static void *mapped(const char *path, int flags, int *fd)
{
	*fd = M(open(path, flags));
	void *at = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, *fd, 0);
	return at == MAP_FAILED ? NULL : at;
}

static void show(const char *what, void *at, int fd)
{
	struct stat st;
	char line[8192], want[64], name[4096], link[64];
	unsigned major, minor;
	unsigned long start, ino;
	FILE *f = fopen("/proc/self/maps", "r");
	M(fstat(fd, &st));
	while (fgets(line, sizeof line, f)) {
		name[0] = 0;
		int path = 0;
		if (sscanf(line, "%lx-%*x %*s %*s %x:%x %lu %n", &start, &major, &minor, &ino, &path) != 4 || start != (unsigned long)at)
			continue;
		line[strcspn(line, "\n")] = 0;
		snprintf(name, sizeof name, "%s", line + path);
		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		ssize_t n = readlink(link, want, 0);
		(void)n;
		static char target[4096];
		n = readlink(link, target, sizeof target - 1);
		target[n < 0 ? 0 : n] = 0;
		printf("%s: %s, device %d, inode %d, column %d, link %d\n", what, strncmp(name, base, strlen(base)) ? name : name + strlen(base),
		       makedev(major, minor) == st.st_dev, ino == st.st_ino, path >= 73, !strcmp(name, target));
	}
	fclose(f);
}

int main(void)
{
	int a, b;
	M(getcwd(base, sizeof base) ? 0 : -1);
	M(unshare(CLONE_NEWNS));
	M(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	M(mkdir("m", 0755));
	M(mount("m", "m", "tmpfs", 0, NULL));
	M(chdir("m"));
	strcat(base, "/m");
	const char *dirs[] = { "plain", "bound", "lower", "lower/d", "upper", "work", "over" };
	for (unsigned i = 0; i < sizeof dirs / sizeof *dirs; i++)
		M(mkdir(dirs[i], 0755));
	put("plain/f");
	put("lower/f");
	put("lower/d/deep");
	M(mount("plain", "bound", NULL, MS_BIND, NULL));
	M(mount("o", "over", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work"));

	void *x = mapped("plain/f", O_RDONLY, &a);
	show("on a tmpfs", x, a);
	void *y = mapped("bound/f", O_RDONLY, &b);
	show("by a bind mount", y, b);
	M(rename("plain/f", "plain/g h"));
	show("renamed", x, a);
	show("renamed, bound", y, b);
	M(unlink("bound/g h"));
	show("deleted", x, a);

	x = mapped("over/f", O_RDONLY, &a);
	show("on an overlay", x, a);
	y = mapped("over/d/deep", O_RDWR, &b);
	show("copied up", y, b);
	put("over/new");
	y = mapped("over/new", O_RDONLY, &b);
	show("made there", y, b);
	M(rename("over/new", "over/newer"));
	show("and renamed", y, b);
	return 0;
}
