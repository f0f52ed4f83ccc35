/* Writers that never stop keep a control file full. Whoever else asks the supervisor for something is answered all the same. */
#include "abuse.h"

int main(void)
{
	/* The opener, who is told of each write, is gone: its number alone is left to the supervisor. */
	pid_t opener = fork();
	if (opener == 0) {
		setpgid(0, 0);
		int fd = open("/proc/self/comm", O_WRONLY);
		for (int i = 0; i < 6; i++)
			if (fd >= 0 && fork() == 0)
				for (;;)
					if (raw6(SYS_write, fd, (long)"x", 1, 0, 0, 0) == -EPIPE)
						_exit(0);
		_exit(fd < 0);
	}
	int status = 1;
	waitpid(opener, &status, 0);
	if (status)
		return 2;
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
