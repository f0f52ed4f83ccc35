/* Handles of host files that are open for reading only, and every way from a descriptor back to its file. Arguments: files
 * to open; "-FILE" deletes the name afterwards, "@N" is a descriptor that is open already. */
#include "abuse.h"
#include <sys/xattr.h>

static void try(const char *what, int fd, int writable)
{
	char p[64];
	sprintf(p, "/proc/self/fd/%d", fd);
	int w = open(p, O_RDWR);
	if (w >= 0 && write(w, "EVIL", 4) == 4 && !writable) printf("ESCAPED: %s was opened again for writing\n", what);
	if (open(p, O_RDONLY | O_TRUNC) >= 0 && !writable) printf("ESCAPED: %s was truncated\n", what);
	truncate(p, 3);
	fchmod(fd, 0777);
	fchown(fd, 5, 5);
	fsetxattr(fd, "user.evil", "x", 1, 0);
	setxattr(p, "user.evil", "x", 1, 0);
	chmod(p, 0777);
	struct timespec old[2] = { { 1, 0 }, { 1, 0 } };
	futimens(fd, old);
	if (ftruncate(fd, 1) == 0) printf("ESCAPED: %s: ftruncate\n", what);
	if (fallocate(fd, 0, 0, 4096) == 0) printf("ESCAPED: %s: fallocate\n", what);
	if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED) printf("ESCAPED: %s: mapped for writing\n", what);
	for (int i = 0; i < 2; i++) {
		const char *name = i ? "made-by-handle" : "made-by-proc";
		int r = i ? linkat(fd, "", AT_FDCWD, name, AT_EMPTY_PATH) : linkat(AT_FDCWD, p, AT_FDCWD, name, AT_SYMLINK_FOLLOW);
		if (r) continue;
		w = open(name, O_RDWR);
		if (w >= 0 && write(w, "LINK", 4) != 4) printf("%s: cannot write\n", what);
		unlink(name);
	}
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *name = argv[i];
		int gone = *name == '-', copied;
		if (gone) name++;
		int fd = *name == '@' ? atoi(name + 1) : open(name, O_RDONLY);
		if (fd < 0) {
			printf("%s: %s\n", name, strerror(errno));
			continue;
		}
		if (gone && unlink(name)) printf("unlink %s: %s\n", name, strerror(errno));
		/* What has its name still may be changed: that is a copy. */
		copied = !gone && *name != '/' && *name != '@';
		try(argv[i], fd, copied);
	}
	printf("tried\n");
	return 0;
}
