/* oracle: user
 * What a forked child maps before its first call with a name stays as it is. */
#include "oracle.h"

#define MAPS 200
#define LEN (256 << 10)

static int whole(unsigned char **maps)
{
	for (int i = 0; i < MAPS; i++)
		for (int at = 0; at < LEN; at += 4096)
			if (maps[i][at] != (unsigned char)(i + 1))
				return 0;
	return 1;
}

static void child(void)
{
	static unsigned char *maps[MAPS];
	for (int i = 0; i < MAPS; i++) {
		maps[i] = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		memset(maps[i], i + 1, LEN);
	}
	struct stat st;
	T(stat(".", &st));
	printf("maps whole: %d\n", whole(maps));
	CHILD("grandchild", {
		int fd = M(open("/dev/null", O_RDONLY));
		close(fd);
		printf("maps whole: %d\n", whole(maps));
	});
	printf("maps whole: %d\n", whole(maps));
}

int main(void)
{
	CHILD("child", child(););
	CHILD("second child", child(););
	return 0;
}
