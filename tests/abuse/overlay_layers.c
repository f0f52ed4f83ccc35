/* Overlays as a way round permissions: a user who is root in a user namespace of his own mounts overlays of directories that
 * are not his, of what is hidden, and of layers that change under them. */
#include "abuse.h"
#include <sys/mount.h>

static const char *token, *secret, *canary;

static int overlay(const char *lower, const char *rest, const char *at)
{
	char options[9000];
	snprintf(options, sizeof options, "lowerdir=%s%s", lower, rest);
	return mount("overlay", at, "overlay", 0, options);
}

static void look(const char *path)
{
	int fd = open(path, O_RDONLY);
	if (fd >= 0 && holds_token(fd, token))
		printf("ESCAPED: %s\n", path);
	close(fd);
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		printf("%s: %s\n", path, strerror(errno));
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	token = argv[1], secret = argv[2], canary = argv[3];
	char host_dir[4096], path[8192];
	/* What root inside keeps from others. */
	mkdir("/tmp/private", 0755);
	put("/tmp/private/mine", token);
	mkdir("/tmp/top", 0777);
	chmod("/tmp/top", 0777);
	if (fork() == 0) {
		if (setresgid(1000, 1000, 1000) || setresuid(1000, 1000, 1000))
			_exit(1);
		if (unshare(CLONE_NEWUSER | CLONE_NEWNS)) {
			printf("no user namespace: %s\n", strerror(errno));
			_exit(0);
		}
		put("/proc/self/setgroups", "deny");
		put("/proc/self/uid_map", "0 1000 1");
		put("/proc/self/gid_map", "0 1000 1");
		chdir("/tmp/top");
		const char *dirs = "empty\0u\0w\0m\0x\0";
		for (const char *d = dirs; *d; d += strlen(d) + 1)
			mkdir(d, 0755);
		/* Reading through a read-only overlay, and through a copy. */
		overlay("/tmp/private:empty", ",userxattr", "m");
		look("m/mine");
		umount2("m", MNT_DETACH);
		overlay("/tmp/private", ",upperdir=u,workdir=w,userxattr", "m");
		look("m/mine");
		chmod("m/mine", 0777);
		look("m/mine");
		chown("m/mine", 0, 0);
		link("m/mine", "m/linked");
		rename("m/mine", "m/moved");
		look("m/mine"), look("m/linked"), look("m/moved"), look("u/mine"), look("u/moved");
		/* A redirect in a layer of one's own that leads out of the layers. */
		mkdir("x/d", 0755);
		const char *leads[] = { "/../private", "../private", "/tmp/private", "..", "/d/../../private", "/" };
		for (int i = 0; i < 6; i++) {
			syscall(SYS_setxattr, "x/d", "user.overlay.redirect", leads[i], strlen(leads[i]), 0);
			syscall(SYS_setxattr, "x/d", "trusted.overlay.redirect", leads[i], strlen(leads[i]), 0);
			mkdir("y", 0755);
			overlay("x:empty", ",redirect_dir=follow", "y");
			look("y/d/mine"), look("y/d/private/mine"), look("y/d/tmp/private/mine");
			umount2("y", MNT_DETACH);
		}
		/* Writing into a directory of root's as the upper one. */
		mkdir("k", 0755);
		if (overlay("empty", ",upperdir=/tmp/private,workdir=/tmp/top/k,userxattr", "y") == 0) {
			put("y/planted", "x");
			unlink("y/mine");
		}
		/* What the host keeps: below the root's own layers there are only the sandbox's. */
		snprintf(host_dir, sizeof host_dir, "%s", secret);
		*strrchr(host_dir, '/') = 0;
		overlay(host_dir, ":/", "y");
		look("y/../../../.."), look(secret);
		snprintf(path, sizeof path, "y/%s", strrchr(secret, '/') + 1);
		look(path);
		snprintf(host_dir, sizeof host_dir, "%s", canary);
		*strrchr(host_dir, '/') = 0;
		if (overlay(host_dir, ",upperdir=u,workdir=w,userxattr", "x") == 0)
			put("x/canary", "spoilt");
		put(canary, "spoilt");
		/* Layers that vanish and change while they are used. */
		for (int i = 0; i < 200; i++) {
			umount2("y", MNT_DETACH);
			overlay("empty:x", ",upperdir=u,workdir=w,userxattr", "y");
			mkdir("y/a", 0755), mkdir("u/a/b", 0755), rename("u/a", "empty/a"), rename("empty/a", "w/work/a");
			rmdir("w/work/a/b"), rmdir("w/work/a"), rmdir("w/work"), unlink("y/a"), rmdir("y/a"), mkdir("y/a/c", 0755);
			rename("y/a", "y/b"), rename("y/b", "y/a/b"), rmdir("u/b"), mkdir("u/b", 0), rmdir("u");
			mkdir("u", 0755);
		}
		/* Deeper and deeper. */
		char deep[64] = "empty";
		for (int i = 0; i < 20; i++) {
			char at[64];
			snprintf(at, sizeof at, "deep%d", i);
			mkdir(at, 0755);
			overlay(deep, ":x", at);
			strcpy(deep, at);
		}
		_exit(0);
	}
	int status;
	wait(&status);
	struct stat st;
	if (stat("/tmp/private/planted", &st) == 0)
		printf("ESCAPED: planted\n");
	if (stat("/tmp/private/mine", &st) || st.st_mode != (S_IFREG | 0600))
		printf("ESCAPED: root's file was changed\n");
	return WIFEXITED(status) ? WEXITSTATUS(status) : 3;
}
