/* oracle: user root
 * execve in every shape: kinds of ELF, scripts, argument vectors, errors, what survives. */
#include "oracle.h"

static char *argv2[] = { "zero", "one", "", "two words", NULL };
static char *envp[] = { "SHOW=1", "SHOW_EMPTY=", "SHOWNOEQUALS", NULL };
static char *noenv[] = { NULL };

#define EXEC(path, av, ev) CHILD(#path, { T(execve(path, av, ev)); _exit(errno == 0); })

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "fds") == 0) {
		for (int i = 3; i < 12; i++) printf("%d%s ", i, fcntl(i, F_GETFD) == -1 ? "-" : "+");
		printf("\n");
		char cwd[4096];
		printf("cwd %s umask %03o\n", getcwd(cwd, sizeof cwd) && strrchr(cwd, '/')[1] == 'w' ? "w" : "?", umask(0));
		printf("pid kept %s\n", getpid() == atoi(argv[2]) ? "yes" : "no");
		return 0;
	}
	const char *kinds[] = { "./show", "./show_static", "./show_static_pie", "./show_nopie" };
	for (int i = 0; i < 4; i++) EXEC(kinds[i], argv2, envp);
	EXEC("./show", noenv, noenv);
	CHILD("null argv", { T(execve("./show", NULL, NULL)); });
	EXEC("./show", ((char *[]){ "x", "fail", NULL }), noenv);

	put_file("script", "#!./show\n", 0755);
	put_file("script_arg", "#!  ./show   one argument with spaces  \nrest\n", 0755);
	put_file("nested", "#!./script inner\n", 0755);
	put_file("sh_script", "#!/bin/sh -e\necho \"$0\" \"$#\" \"$1\"\nfalse\necho not here\n", 0755);
	put_file("no_interp", "#!/nonexistent/interp\n", 0755);
	put_file("empty_interp", "#!\n", 0755);
	put_file("dir_interp", "#!/etc\n", 0755);
	put_file("no_newline", "#!./show", 0755);
	put_file("text", "echo plain text ran\n", 0755);
	put_file("empty", "", 0755);
	put_file("noexec", "#!./show\n", 0644);
	put_file("bad_elf", "\177ELF\2\1\1garbage", 0755);
	put_file("self_loop", "#!./self_loop\n", 0755);
	char *a3[] = { "argv0", "A1", "A2", NULL };
	EXEC("./script", a3, envp);
	EXEC("./script_arg", a3, envp);
	EXEC("./nested", a3, envp);
	EXEC("./sh_script", a3, envp);
	EXEC("./no_interp", a3, envp);
	EXEC("./empty_interp", a3, envp);
	EXEC("./dir_interp", a3, envp);
	EXEC("./no_newline", a3, envp);
	EXEC("./text", a3, envp);
	EXEC("./empty", a3, envp);
	EXEC("./noexec", a3, envp);
	EXEC("./bad_elf", a3, envp);
	EXEC("./self_loop", a3, envp);
	EXEC("./missing", a3, envp);
	EXEC("./script/under", a3, envp);
	EXEC(".", a3, envp);
	EXEC("", a3, envp);
	EXEC("/dev/null", a3, envp);
	M(symlink("show", "link"));
	M(symlink("loop", "loop"));
	EXEC("./link", a3, envp);
	EXEC("./loop", a3, envp);
	CHILD("execvp runs text by the shell", { char *t[] = { "text", NULL }; setenv("PATH", ".", 1); T(execvp("text", t)); });
	CHILD("bad pointer", T(execve((char *)8, a3, envp)));
	CHILD("bad argv", T(execve("./show", (char **)8, envp)));
	CHILD("bad string", T(execve("./show", ((char *[]){ (char *)8, NULL }), envp)));
	char *big = malloc(200000);
	memset(big, 'x', 199999);
	big[199999] = 0;
	CHILD("one string too long", T(execve("./show", ((char *[]){ "x", big, NULL }), envp)));
	CHILD("too much in sum", {
		char **av = calloc(4001, sizeof *av);
		big[5000] = 0;
		for (int i = 0; i < 4000; i++) av[i] = big;
		T(execve("/bin/true", av, envp));
	});
	CHILD("much but allowed", {
		char **av = calloc(301, sizeof *av);
		big[1000] = 0;
		for (int i = 0; i < 300; i++) av[i] = big;
		T(execve("/bin/true", av, envp));
	});
	int fd = M(open("show", O_RDONLY));
	CHILD("fexecve", { fexecve(fd, a3, envp); printf("%s\n", name_of(errno)); });
	CHILD("execveat empty path", T(syscall(SYS_execveat, fd, "", a3, envp, AT_EMPTY_PATH)));
	CHILD("execveat no flag", T(syscall(SYS_execveat, fd, "", a3, envp, 0)));
	int dir = M(open(".", O_RDONLY | O_DIRECTORY));
	CHILD("execveat in directory", T(syscall(SYS_execveat, dir, "show_static", a3, envp, 0)));
	CHILD("execveat nofollow", T(syscall(SYS_execveat, dir, "link", a3, envp, AT_SYMLINK_NOFOLLOW)));
	close(fd);
	close(dir);

	M(mkdir("w", 0755));
	CHILD("what survives", {
		M(chdir("w"));
		umask(027);
		for (int i = 3; i < 12; i++) dup2(0, i);
		for (int i = 3; i < 12; i += 2) fcntl(i, F_SETFD, FD_CLOEXEC);
		char pid[16];
		snprintf(pid, sizeof pid, "%d", getpid());
		execl("/proc/self/exe", "exec", "fds", pid, NULL);
	});
	CHILD("mappings are gone and timers of the process stay", {
		alarm(1);
		execl("/bin/sh", "sh", "-c", "while :; do :; done", NULL);
	});
	CHILD("a chain of execs", execl("/bin/sh", "sh", "-c", "exec sh -c 'exec sh -c \"exit 12\"'", NULL));
	return 0;
}
