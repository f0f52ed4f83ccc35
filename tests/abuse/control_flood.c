/* Writers that never stop keep a control file full. Whoever else asks the supervisor for something is answered all the same. */
#include "abuse.h"

int main(void)
{
	/* The opener, whom each write is told, is stopped: the writes alone are what happens. */
	int go[2];
	if (pipe(go))
		return 2;
	pid_t opener = fork();
	if (opener == 0) {
		char c;
		setpgid(0, 0);
		close(go[1]);
		int fd = open("/proc/self/comm", O_WRONLY);
		for (int i = 0; i < 6; i++)
			if (fd >= 0 && fork() == 0) {
				read(go[0], &c, 1);
				for (;;)
					if (raw6(SYS_write, fd, (long)"x", 1, 0, 0, 0) == -EPIPE)
						_exit(0);
			}
		if (fd >= 0)
			raise(SIGSTOP);
		_exit(1);
	}
	int status = 0;
	waitpid(opener, &status, WUNTRACED);
	if (!WIFSTOPPED(status))
		return 2;
	close(go[1]);
	time_t since = time(NULL);
	pid_t other = fork();
	if (other == 0) {
		struct stat st;
		for (int i = 0; i < 50; i++)
			stat("/proc/self/no-such-file", &st), getppid(), stat("/etc/no-such-file", &st);
		_exit(0);
	}
	int done = 0;
	for (int i = 0; i < 200 && !done; i++) {
		usleep(100000);
		done = waitpid(other, NULL, WNOHANG) == other;
		if (time(NULL) - since > 20)
			break;
	}
	kill(-opener, SIGKILL);
	if (!done)
		printf("BROKEN: nobody is answered while others write\n");
	return !done;
}
