/* oracle: root
 * tmpfs: limits on size and inodes, what statfs and mountinfo tell, and who keeps an instance alive. */
#include "oracle.h"
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>

static void show(const char *dir)
{
	struct statfs s;
	M(statfs(dir, &s));
	printf("type %lx, blocks %ld of %ld, inodes %ld of %ld, size %ld, names %ld\n", (long)s.f_type, (long)s.f_bfree,
	       (long)s.f_blocks, (long)s.f_ffree, (long)s.f_files, (long)s.f_bsize, (long)s.f_namelen);
}

static void options(const char *dir)
{
	char line[1024];
	FILE *f = fopen("/proc/self/mountinfo", "r");
	while (fgets(line, sizeof line, f)) {
		char where[256];
		if (sscanf(line, "%*d %*d %*s %*s %255s", where) == 1 && strcmp(where, dir) == 0)
			printf("mountinfo:%s", strstr(line, " - "));
	}
	fclose(f);
}

static void try_options(const char *dir, const char *type, const char *o)
{
	printf("-t %s -o %s\n", type, o);
	if (T(mount("none", dir, type, 0, o)) == 0) {
		options(dir);
		M(umount(dir));
	}
}

int main(void)
{
	static char buf[1 << 20];
	char dir[512];
	memset(buf, 'x', sizeof buf);
	M(unshare(CLONE_NEWNS));
	M(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	M(mkdir("m", 0755));
	getcwd(dir, sizeof dir - 8);
	strcat(dir, "/m");
	static const char *const texts[] = {
		"size=1m", "size=5k", "nr_blocks=3", "size=0", "size=x", "size=", "size", "nr_inodes=7", "nr_inodes=-1", "mode=700",
		"mode=9", "mode=77777", "uid=3,gid=4", "uid=x", "huge=never", "huge=foo", "foo", "foo=1", "size=1m,size=2m", "noswap",
		"inode64", "mpol=default", "size=64k,,mode=755", "ro", NULL,
	};
	for (int i = 0; texts[i]; i++)
		try_options(dir, "tmpfs", texts[i]);
	try_options(dir, "ramfs", "mode=700,foo=1,size=3");
	try_options(dir, "ramfs", "mode=9");
	T(mount("none", dir, "nosuchfs", 0, NULL));

	M(mount("none", dir, "tmpfs", MS_NOSUID, "size=1m,nr_inodes=10,mode=711,uid=5,gid=6"));
	options(dir);
	show("m");
	struct stat st;
	M(stat("m", &st));
	printf("root: %o %d %d\n", st.st_mode, st.st_uid, st.st_gid);
	M(chdir("m"));
	int fd = M(open("a", O_RDWR | O_CREAT, 0644));
	T(write(fd, buf, 1000000));
	T(write(fd, buf, 1000000));
	T(write(fd, buf, 1));
	T(pwrite(fd, buf, 4096, 0));
	M(fstat(fd, &st));
	printf("size %ld blocks %ld position %ld\n", (long)st.st_size, (long)st.st_blocks, (long)lseek(fd, 0, SEEK_CUR));
	show(".");
	T(ftruncate(fd, 1 << 19));
	show(".");
	T(lseek(fd, 0, SEEK_END));
	T(posix_fallocate(fd, 0, 2 << 20));
	M(fstat(fd, &st));
	printf("size %ld\n", (long)st.st_size);
	T(fallocate(fd, 0, 0, 600000));
	T(write(fd, buf, 1 << 20));
	close(fd);
	T(truncate("a", 8192));
	fd = M(open("a", O_WRONLY | O_APPEND));
	T(write(fd, buf, sizeof buf));
	T(write(fd, buf, sizeof buf));
	close(fd);
	int from = M(open("a", O_RDONLY));
	int to = M(open("b", O_WRONLY | O_CREAT, 0600));
	T(sendfile(to, from, NULL, 4096));
	T(unlink("a"));
	show(".");
	close(from);
	show(".");
	from = M(open("/proc/self/exe", O_RDONLY));
	T(sendfile(to, from, NULL, 4096));
	close(to);
	close(from);
	/* Many small writes, as a log makes them. */
	fd = M(open("b", O_WRONLY | O_TRUNC));
	long all = 0, r;
	while ((r = write(fd, buf, 1000)) > 0)
		all += r;
	printf("1000 bytes at a time: %ld, then %s\n", all, name_of(errno));
	close(fd);
	/* By a child that got the file. */
	fd = M(open("b", O_WRONLY | O_TRUNC));
	pid_t p = M(fork());
	if (p == 0) {
		dup2(fd, 1);
		execlp("dd", "dd", "if=/dev/zero", "bs=64k", "status=none", NULL);
		_exit(9);
	}
	int status;
	waitpid(p, &status, 0);
	M(fstat(fd, &st));
	printf("dd: %s, size %ld\n", status_text(status), (long)st.st_size);
	close(fd);
	T(unlink("b"));

	/* Inodes. */
	T(mkdir("d", 0755));
	T(symlink("x", "l"));
	T(mkfifo("p", 0644));
	fd = M(open("f", O_CREAT | O_RDWR, 0644));
	show(".");
	T(link("f", "g"));
	T(link("f", "h"));
	T(link("f", "i"));
	T(link("f", "j"));
	T(link("f", "k"));
	T(mkdir("e", 0755));
	T(symlink("x", "m"));
	T(open("n", O_CREAT | O_RDWR, 0644));
	T(rename("f", "o"));
	T(rename("o", "g"));
	T(open(".", O_TMPFILE | O_RDWR, 0600));
	show(".");
	T(rename("h", "i"));
	show(".");
	T(unlink("h"));
	T(unlink("i"));
	T(unlink("j"));
	T(unlink("k"));
	T(unlink("g"));
	T(unlink("o"));
	show(".");
	close(fd);
	show(".");
	fd = M(open(".", O_TMPFILE | O_RDWR, 0600));
	show(".");
	T(linkat(AT_FDCWD, "/proc/self/fd/4", AT_FDCWD, "t", AT_SYMLINK_FOLLOW) == -1 && errno == EINVAL);
	show(".");
	close(fd);
	T(rmdir("d"));
	T(unlink("l"));
	T(unlink("p"));

	/* Other limits. */
	fd = M(open("a", O_CREAT | O_RDWR, 0644));
	M(write(fd, buf, 100000));
	T(mount(NULL, ".", NULL, MS_REMOUNT | MS_NOSUID, "size=64k"));
	T(mount(NULL, ".", NULL, MS_REMOUNT | MS_NOSUID, "size=128k"));
	options(dir);
	T(write(fd, buf, 100000));
	T(mount(NULL, ".", NULL, MS_REMOUNT | MS_NOSUID, "nr_inodes=1"));
	T(mount(NULL, ".", NULL, MS_REMOUNT | MS_NOSUID, "nr_inodes=0"));
	T(mount(NULL, ".", NULL, MS_REMOUNT | MS_NOSUID, "nr_inodes=5"));
	options(dir);
	show(".");

	/* Who holds it, keeps it. */
	M(chdir(".."));
	T(umount2("m", MNT_DETACH));
	T(access("m/a", F_OK));
	T(pwrite(fd, "still", 5, 0));
	char small[6] = "";
	T(pread(fd, small, 5, 0));
	printf("%s\n", small);
	T(write(fd, buf, 100000));
	close(fd);
	return 0;
}
