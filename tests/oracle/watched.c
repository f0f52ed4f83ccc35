/* oracle: user root
 * What has been asked before is answered as it is now, whichever way it changed: by another name of the same file, in another directory,
 * above or below. Nothing here is changed by a path that has been asked about, where that can be avoided. */
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

static void put(const char *name, const char *text, int flags)
{
	int fd = M(open(in_dir(name), O_WRONLY | flags, 0644));
	M(write(fd, text, strlen(text)));
	close(fd);
}

/* One look at everything, as text. */
static void look(char *text, size_t room)
{
	static const char *const names[] = { "a/file", "a/new", "a", "a/sub", "a/sub/deep", "a/sub/../file", "t", "t/file", ".", "../a", "../a/file" };
	size_t at = 0;
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		struct stat st = {0};
		const char *path = names[i][0] == '.' ? names[i] : in_dir(names[i]);
		int error = stat(path, &st) ? errno : 0;
		int readable = access(path, R_OK) ? errno : 0;
		at += snprintf(text + at, room - at, "%s%s %s %s %o links %d size %ld", i ? "; " : "", names[i], name_of(error), name_of(readable), st.st_mode,
			       S_ISREG(st.st_mode) ? (int)st.st_nlink : 0, S_ISREG(st.st_mode) ? (long)st.st_size : 0L);
		if (names[i][0] == '.') continue;
		int fd = open(path, O_RDONLY);
		if (fd < 0) continue;
		M(fstat(fd, &st));
		at += snprintf(text + at, room - at, " open %o %d", st.st_mode, S_ISREG(st.st_mode) ? (int)st.st_nlink : 0);
		close(fd);
	}
}

static void after(const char *what, void (*change)(void))
{
	char first[4000], text[4000];
	look(first, sizeof first);
	for (int i = 0; i < 20; i++) {
		look(text, sizeof text);
		if (strcmp(first, text)) printf("changed by itself: %s, then %s\n", first, text);
	}
	/* By another process, so that the asker has no part in it. */
	int status;
	pid_t pid = M(fork());
	if (pid == 0) {
		change();
		_exit(0);
	}
	M(waitpid(pid, &status, 0));
	look(text, sizeof text);
	printf("%s (%d): %s\n", what, status, text);
}

static void link_it(void) { M(link(in_dir("a/file"), in_dir("b/other"))); }
static void grow_other(void) { put("b/other", "longer", O_APPEND); }
static void cut_other(void) { put("b/other", "x", O_TRUNC); }
static void chmod_other(void) { M(chmod(in_dir("b/other"), 0600)); }
static void replace_other(void) { put("b/third", "third", O_CREAT); M(rename(in_dir("b/third"), in_dir("b/other"))); }
static void unlink_other(void) { M(unlink(in_dir("b/other"))); }
static void mkdir_below(void) { M(mkdir(in_dir("a/sub/deep"), 0750)); }
static void mkdir_beside(void) { M(mkdir(in_dir("a/x"), 0755)); }
static void rmdir_beside(void) { M(rmdir(in_dir("a/x"))); }
static void rmdir_below(void) { M(rmdir(in_dir("a/sub/deep"))); }
static void move_in(void) { put("b/new", "moved", O_CREAT); M(rename(in_dir("b/new"), in_dir("a/new"))); }
static void move_out(void) { M(rename(in_dir("a/new"), in_dir("b/new"))); }
static void move_sub(void) { M(rename(in_dir("a/sub"), in_dir("b/sub"))); }
static void move_sub_back(void) { M(rename(in_dir("b/sub"), in_dir("a/sub"))); }
static void exchange(void) { M(renameat2(AT_FDCWD, in_dir("a"), AT_FDCWD, in_dir("b"), RENAME_EXCHANGE)); }
static void in_sticky(void) { put("t/file", "in t", O_CREAT | O_EXCL); }
static void out_of_sticky(void) { M(unlink(in_dir("t/file"))); }
static void unstick(void) { M(chmod(in_dir("t"), 0755)); }
static void stick(void) { M(chmod(in_dir("t"), 01777)); }
static void move_here(void) { M(rename(in_dir("here"), in_dir("b/here"))); }
static void move_here_back(void) { M(rename(in_dir("b/here"), in_dir("here"))); }
static void in_here(void) { put("here/z", "", O_CREAT); }
static void empty_here(void) { M(unlink(in_dir("here/z"))); }
static void rmdir_here(void) { M(rmdir(in_dir("here"))); }

int main(void)
{
	M(getcwd(dir, sizeof dir - 100) ? 0 : -1);
	static const char *const dirs[] = { "a", "a/sub", "b", "t", "here" };
	for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++) M(mkdir(in_dir(dirs[i]), 0755));
	M(chmod(in_dir("t"), 01777));
	put("a/file", "text", O_CREAT);
	M(chdir("here"));
	after("another name", link_it);
	after("longer by the other name", grow_other);
	after("cut by the other name", cut_other);
	after("mode by the other name", chmod_other);
	after("other name replaced", replace_other);
	after("another name again", unlink_other);
	after("linked", link_it);
	after("other name gone", unlink_other);
	after("below", mkdir_below);
	after("beside", mkdir_beside);
	after("beside gone", rmdir_beside);
	after("below gone", rmdir_below);
	after("moved in", move_in);
	after("moved out", move_out);
	after("directory moved out", move_sub);
	after("directory moved back", move_sub_back);
	after("exchanged", exchange);
	after("exchanged back", exchange);
	after("in a sticky directory", in_sticky);
	after("no more", out_of_sticky);
	after("no longer sticky", unstick);
	after("in what was sticky", in_sticky);
	after("sticky again", stick);
	after("gone from there", out_of_sticky);
	after("working directory moved", move_here);
	after("and back", move_here_back);
	after("something in it", in_here);
	after("nothing in it", empty_here);
	after("working directory removed", rmdir_here);
	return 0;
}
