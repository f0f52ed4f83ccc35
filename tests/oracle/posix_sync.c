/* oracle: user root
 * fsync(2), fdatasync(2), syncfs(2) of files, directories and what cannot be synced. */
#include "oracle.h"

static void all(const char *what, int fd)
{
	printf("== %s\n", what);
	OK(fsync(fd));
	OK(fdatasync(fd));
	OK(syncfs(fd));
}

int main(void)
{
	int pipes[2];
	mkdir("synced", 0755);
	close(open("synced/file", O_CREAT | O_WRONLY, 0644));
	all("directory", open("synced", O_RDONLY | O_DIRECTORY));
	int fd = open("synced", O_RDONLY);
	mkdir("synced/below", 0755);
	for (int i = 0; i < 20; i++)
		if (fsync(fd))
			perror("again");
	rmdir("synced/below");
	unlink("synced/file");
	rmdir("synced");
	all("removed directory", fd);
	all("root", open("/", O_RDONLY));
	all("proc", open("/proc", O_RDONLY));
	all("path", open("/", O_PATH));
	fd = open("f", O_CREAT | O_WRONLY, 0644);
	all("file", fd);
	unlink("f");
	if (pipe(pipes))
		return 1;
	OK(fsync(pipes[0]));
	OK(fsync(pipes[1]));
	OK(fsync(-1));
	OK(syncfs(-1));
	return 0;
}
