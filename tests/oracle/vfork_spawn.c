/* oracle: user
 * vfork and posix_spawn as libcs use them. */
#include "oracle.h"
#include <spawn.h>

extern char **environ;

int main(void)
{
	volatile int shared = 0;
	pid_t p = vfork();
	if (p == 0) {
		shared = 5;
		_exit(3);
	}
	printf("shared %d\n", shared);
	reap("vfork exit", p);
	p = vfork();
	if (p == 0) {
		execl("/bin/sh", "sh", "-c", "exit 8", NULL);
		_exit(127);
	}
	reap("vfork exec", p);
	p = vfork();
	if (p == 0) {
		execl("/nonexistent", "x", NULL);
		_exit(errno == ENOENT ? 44 : 45);
	}
	reap("vfork failing exec", p);

	posix_spawn_file_actions_t fa;
	posix_spawnattr_t at;
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 1, "out", O_WRONLY | O_CREAT | O_TRUNC, 0600);
	posix_spawnattr_init(&at);
	posix_spawnattr_setflags(&at, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setpgroup(&at, 0);
	sigset_t m, d;
	sigemptyset(&m);
	sigaddset(&m, SIGUSR2);
	posix_spawnattr_setsigmask(&at, &m);
	sigfillset(&d);
	posix_spawnattr_setsigdefault(&at, &d);
	signal(SIGINT, SIG_IGN);
	char *argv[] = { "sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status; exit 6", NULL };
	printf("posix_spawn: %d\n", posix_spawn(&p, "/bin/sh", &fa, &at, argv, environ));
	printf("own group: %s\n", getpgid(p) == p ? "yes" : "no");
	reap("spawned", p);
	print_file("out");
	char *none[] = { "x", NULL };
	printf("posix_spawn of nothing: %s\n", name_of(posix_spawn(&p, "/nonexistent", NULL, NULL, none, environ)));
	printf("posix_spawnp: %s\n", name_of(posix_spawnp(&p, "true", NULL, NULL, none, environ)));
	reap("spawnp", p);
	FILE *f = popen("echo from popen; exit 2", "r");
	char b[64] = "";
	if (!fgets(b, sizeof b, f)) return 1;
	printf("%s", b);
	printf("pclose: %s\n", status_text(pclose(f)));
	printf("system: %s\n", status_text(system("kill -USR1 $$")));
	/* A hundred vforks in a row leave nothing behind. */
	int bad = 0;
	for (int i = 0; i < 100; i++) {
		int st;
		if ((p = vfork()) == 0) _exit(i);
		if (waitpid(p, &st, 0) != p || WEXITSTATUS(st) != i) bad++;
	}
	printf("bad %d\n", bad);
	T(wait(NULL));
	return 0;
}
