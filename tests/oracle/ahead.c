/* oracle: user root
 * What a program sees when it starts is what is there then, not what was there when it was executed, or the last time. A child
 * executed several times asks the same questions first, each time after its parent has let it: in between the parent
 * changes the answers. */
#include "oracle.h"

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

/* The first things this does are to read a byte, natively, and then to ask. */
static void child(char **argv)
{
	char go;
	if (read(3, &go, 1) != 1) exit(9);
	char text[64] = "", link[64] = "";
	struct stat st = {0}, self = {0}, lst = {0};
	int fd = open(argv[2], O_RDONLY | O_CLOEXEC);
	int open_error = fd < 0 ? errno : 0;
	int fst = fd < 0 ? -1 : fstat(fd, &st);
	int access_error = access(argv[3], R_OK) ? errno : 0;
	int stat_error = stat(argv[4], &self) ? errno : 0;
	int lstat_error = lstat(argv[5], &lst) ? errno : 0;
	ssize_t n = readlink(argv[5], link, sizeof link - 1);
	int second = open(argv[2], O_RDONLY);
	if (fd >= 0) n = read(fd, text, sizeof text - 1) < 0 ? -2 : n;
	printf("open %s cloexec %d [%s] fstat %d size %ld mode %o; again %s cloexec %d; access %s; stat %s %o; lstat %s; link %zd %s\n", name_of(open_error),
	       fd < 0 ? -1 : fcntl(fd, F_GETFD), text, fst, (long)st.st_size, st.st_mode, second < 0 ? "fails" : "works",
	       second < 0 ? -1 : fcntl(second, F_GETFD), name_of(access_error), name_of(stat_error), self.st_mode, name_of(lstat_error), n, link);
	/* A descriptor of the same number, of something else. */
	if (fd >= 0) {
		int p[2];
		M(pipe(p));
		M(dup2(p[0], fd));
		fst = fstat(fd, &st);
		printf("after dup2: %d %s\n", fst, S_ISFIFO(st.st_mode) ? "pipe" : "not a pipe");
	}
	exit(0);
}

/* Executes the child and lets it go when `change` has been made. */
static void round_of(const char *what, void (*change)(void))
{
	int go[2], status;
	M(pipe(go));
	printf("%s: ", what);
	fflush(stdout);
	pid_t pid = M(fork());
	if (pid == 0) {
		dup2(go[0], 3);
		if (go[0] != 3) close(go[0]);
		if (go[1] != 3) close(go[1]);
		execl(in_dir("ahead"), "ahead", "child", in_dir("file"), in_dir("perhaps"), in_dir("ahead"), in_dir("link"), NULL);
		_exit(8);
	}
	close(go[0]);
	/* Long enough for it to have started and to wait. */
	usleep(30000);
	if (change) change();
	M(write(go[1], "g", 1));
	close(go[1]);
	M(waitpid(pid, &status, 0));
	if (status) printf("status %x\n", status);
}

static void write_more(void) { put("file", "longer than before"); }
static void replace(void) { put("new", "another"); M(rename(in_dir("new"), in_dir("file"))); }
static void mode(void) { M(chmod(in_dir("file"), 0600)); }
static void take_away(void) { M(unlink(in_dir("file"))); }
static void give_back(void) { put("file", "back"); }
static void appear(void) { put("perhaps", "x"); }
static void close_it(void) { M(chmod(in_dir("perhaps"), 0)); }
static void own_mode(void) { M(chmod(in_dir("ahead"), 0711)); }
static void other_link(void) { M(unlink(in_dir("link"))); M(symlink("elsewhere", in_dir("link"))); }
static void move_dir(void)
{
	char aside[4200];
	snprintf(aside, sizeof aside, "%s.aside", dir);
	M(rename(dir, aside));
	M(mkdir(dir, 0755));
	M(close(M(open(in_dir("file"), O_CREAT | O_WRONLY, 0644))));
}

int main(int argc, char **argv)
{
	if (argc > 5) child(argv);
	char here[4000];
	M(getcwd(here, sizeof here) ? 0 : -1);
	snprintf(dir, sizeof dir, "%s/dir", here);
	M(mkdir(dir, 0755));
	/* The program below the directory, so that its place changes with it. */
	M(link("ahead", in_dir("ahead")) == 0 ? 0 : -1);
	put("file", "first");
	M(symlink("target", in_dir("link")));
	for (int i = 0; i < 4; i++) round_of("as before", NULL);
	round_of("more", write_more);
	round_of("replaced", replace);
	round_of("mode", mode);
	round_of("gone", take_away);
	round_of("still gone", NULL);
	round_of("back", give_back);
	for (int i = 0; i < 3; i++) round_of("as before", NULL);
	round_of("appears", appear);
	for (int i = 0; i < 2; i++) round_of("as before", NULL);
	if (getuid()) round_of("closed", close_it);
	round_of("own mode", own_mode);
	round_of("other link", other_link);
	for (int i = 0; i < 3; i++) round_of("as before", NULL);
	round_of("another directory", move_dir);
	return 0;
}
