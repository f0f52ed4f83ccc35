/* oracle: user root
 * What has been asked before is answered as it is now. Each question is asked until an implementation that remembers answers would
 * remember it; then something changes it, made by the asker, by another process or by another thread, and it is asked again at once. */
#include "oracle.h"
#include <pthread.h>
#include <sys/syscall.h>

static char dir[4096];

static const char *in_dir(const char *name)
{
	static char path[8][5000];
	static int next;
	char *p = path[next++ % 8];
	snprintf(p, sizeof path[0], "%s/%s", dir, name);
	return p;
}

static void put(const char *name, const char *text)
{
	int fd = M(open(in_dir(name), O_WRONLY | O_CREAT | O_TRUNC, 0644));
	M(write(fd, text, strlen(text)));
	close(fd);
}

/* One look at everything, as text. */
static void look(char *text, size_t room)
{
	char link[64] = "";
	struct stat st = {0}, lst = {0}, fst = {0};
	ssize_t len = readlink(in_dir("link"), link, sizeof link - 1);
	int link_error = len < 0 ? errno : 0;
	int no_link = readlink(in_dir("sub"), link, 1) < 0 ? errno : 0;
	int stat_error = stat(in_dir("sub/file"), &st) ? errno : 0;
	int lstat_error = lstat(in_dir("link"), &lst) ? errno : 0;
	int access_error = access(in_dir("sub/file"), R_OK) ? errno : 0;
	int gone_error = access(in_dir("gone"), F_OK) ? errno : 0;
	int here_error = access("file", F_OK) ? errno : 0;
	int fd = open(in_dir("sub/file"), O_RDONLY);
	int open_error = fd < 0 ? errno : 0;
	if (fd >= 0) {
		M(fstat(fd, &fst));
		close(fd);
	}
	snprintf(text, room, "link %s [%.*s] %s; stat %s %o %ld; lstat %s %o; access %s %s %s; open %s %o %d %ld", name_of(link_error),
		 len < 0 ? 0 : (int)len, link, name_of(no_link), name_of(stat_error), st.st_mode, (long)st.st_size, name_of(lstat_error), lst.st_mode,
		 name_of(access_error), name_of(gone_error), name_of(here_error), name_of(open_error), fst.st_mode, (int)fst.st_uid, (long)fst.st_size);
}

static void know(void)
{
	char first[1000], text[1000];
	look(first, sizeof first);
	for (int i = 0; i < 40; i++) {
		look(text, sizeof text);
		if (strcmp(first, text)) printf("changed by itself: %s, then %s\n", first, text);
	}
}

static void link_elsewhere(void) { M(unlink(in_dir("link"))); M(symlink("elsewhere", in_dir("link"))); }
static void link_back(void) { M(unlink(in_dir("link"))); M(symlink("sub/file", in_dir("link"))); }
static void unlink_file(void) { M(unlink(in_dir("sub/file"))); }
static void make_file(void) { put("sub/file", "new"); }
static void grow(void) { put("sub/file", "much longer"); }
static void make_gone(void) { put("gone", ""); }
static void unlink_gone(void) { M(unlink(in_dir("gone"))); }
static void hide(void) { M(chmod(in_dir("sub/file"), 0)); }
static void show(void) { M(chmod(in_dir("sub/file"), 0640)); }
static void fchmod_it(void)
{
	int fd = M(open(in_dir("sub/file"), O_RDONLY));
	M(fchmod(fd, 0604));
	close(fd);
}
static void close_dir(void) { M(chmod(in_dir("sub"), 0)); }
static void open_dir(void) { M(chmod(in_dir("sub"), 0755)); }
static void swap(void) { M(rename(in_dir("sub"), in_dir("old"))); M(rename(in_dir("other"), in_dir("sub"))); }
static void swap_back(void) { M(rename(in_dir("sub"), in_dir("other"))); M(rename(in_dir("old"), in_dir("sub"))); }
static void enter(void) { M(chdir(in_dir("sub"))); }
static void leave(void) { M(chdir(dir)); }

static void *in_thread(void *change)
{
	((void (*)(void))change)();
	return NULL;
}

static void after(const char *what, void (*change)(void), int by)
{
	char text[1000];
	know();
	if (by == 0) {
		change();
	} else if (by == 1) {
		int status;
		pid_t pid = M(fork());
		if (pid == 0) {
			change();
			_exit(0);
		}
		M(waitpid(pid, &status, 0));
	} else {
		pthread_t thread;
		pthread_create(&thread, NULL, in_thread, change);
		pthread_join(thread, NULL);
	}
	look(text, sizeof text);
	printf("%s: %s\n", what, text);
}

/* Another thread of the process, with another user: it must not be told what this one may know. */
static void *as_other_user(void *unused)
{
	if (geteuid() == 0) M(syscall(SYS_setresuid, 1234, 1234, 1234));
	for (int i = 0; i < 3; i++)
		printf("other thread: %s\n", access(in_dir("private/file"), F_OK) ? name_of(errno) : "ok");
	return unused;
}

/* A handle that was opened before the attributes changed, and one that is not what it was. */
static void handles(void)
{
	struct stat st;
	int fd = M(open(in_dir("sub/file"), O_RDONLY));
	for (int i = 0; i < 10; i++) M(fstat(fd, &st));
	M(chmod(in_dir("sub/file"), 0600));
	M(fstat(fd, &st));
	printf("handle after chmod: %o\n", st.st_mode);
	int more = M(open(in_dir("sub/file"), O_WRONLY | O_APPEND));
	M(fstat(fd, &st));
	M(write(more, "xyz", 3));
	off_t before = st.st_size;
	M(fstat(fd, &st));
	printf("handle after write: %ld more\n", (long)(st.st_size - before));
	close(more);
	fd = M(open(in_dir("sub/file"), O_RDONLY));
	M(fstat(fd, &st));
	M(dup2(open("/dev/null", O_RDONLY), fd));
	M(fstat(fd, &st));
	printf("handle after dup2: %o\n", st.st_mode & S_IFMT);
}

int main(void)
{
	M(getcwd(dir, sizeof dir - 100) ? 0 : -1);
	M(mkdir(in_dir("sub"), 0755));
	M(mkdir(in_dir("other"), 0755));
	put("sub/file", "text");
	put("other/file", "other text");
	M(symlink("sub/file", in_dir("link")));
	for (int by = 0; by < 3; by++) {
		printf("by %s\n", by == 0 ? "itself" : by == 1 ? "a child" : "a thread");
		after("link elsewhere", link_elsewhere, by);
		after("link back", link_back, by);
		after("unlink", unlink_file, by);
		after("make", make_file, by);
		after("grow", grow, by);
		after("make what was missing", make_gone, by);
		after("unlink it", unlink_gone, by);
		after("mode 0", hide, by);
		after("mode 640", show, by);
		after("fchmod", fchmod_it, by);
		after("close directory", close_dir, by);
		after("open directory", open_dir, by);
		after("other directory", swap, by);
		after("directory back", swap_back, by);
		if (by == 0) {
			after("chdir", enter, by);
			after("chdir back", leave, by);
		}
	}
	handles();
	M(mkdir(in_dir("private"), 0700));
	put("private/file", "");
	for (int i = 0; i < 10; i++)
		if (access(in_dir("private/file"), F_OK)) printf("%s\n", name_of(errno));
	if (geteuid() == 0) {
		pthread_t thread;
		pthread_create(&thread, NULL, as_other_user, NULL);
		pthread_join(thread, NULL);
		printf("this thread: %s\n", access(in_dir("private/file"), F_OK) ? name_of(errno) : "ok");
	}
	return 0;
}
