#include "base/machine/child.h"
#include "base/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int child_find(const char *name, struct err *e)
{
	const char *path = getenv("PATH");
	bool found = strchr(name, '/') && !access(name, X_OK);

	for (const char *at = path ? path : "", *end; !found && !strchr(name, '/') && *at;
	     at = end + !!*end) {
		end = at + strcspn(at, ":");
		char *file = mem_printf("%.*s/%s", (int)(end - at), at, name);
		found = !access(file, X_OK);
		free(file);
	}
	return found || !path ? 0 : err_set(e, "cannot start '%s': %s", name, strerror(errno));
}

/* An errno, or 0. */
static int spawn(pid_t *pid, char **argv, const posix_spawn_file_actions_t *files)
{
	extern char **environ;
	posix_spawnattr_t attr;
	sigset_t ours; /* that this program ignores, for itself alone */
	sigset_t none; /* what the calling thread blocks is its own affair, too */

	posix_spawnattr_init(&attr);
	sigemptyset(&ours);
	sigaddset(&ours, SIGXFSZ);
	sigemptyset(&none);
	posix_spawnattr_setsigdefault(&attr, &ours);
	posix_spawnattr_setsigmask(&attr, &none);
	/* a group of its own, to be killed whole */
	posix_spawnattr_setflags(&attr,
				 POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	int code = posix_spawnp(pid, argv[0], files, &attr, argv, environ);
	if (code)
		*pid = 0;
	posix_spawnattr_destroy(&attr);
	return code;
}

int child_start(pid_t *pid, int *in, int *out, char *const *argv, int n, struct err *e)
{
	int to[2], from[2] = { -1, -1 };
	posix_spawn_file_actions_t files;

	*pid = 0;
	if (pipe2(to, O_CLOEXEC))
		return err_set(e, "cannot make a pipe: %s", strerror(errno));
	if (out && pipe2(from, O_CLOEXEC)) {
		close(to[0]);
		close(to[1]);
		return err_set(e, "cannot make a pipe: %s", strerror(errno));
	}
	char **words = mem_zero((size_t)n + 1, sizeof *words);
	for (int i = 0; i < n; i++)
		words[i] = argv[i];
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_adddup2(&files, to[0], STDIN_FILENO);
	posix_spawn_file_actions_adddup2(&files, out ? from[1] : STDERR_FILENO, STDOUT_FILENO);
	int code = spawn(pid, words, &files);
	posix_spawn_file_actions_destroy(&files);
	free(words);
	close(to[0]);
	if (out)
		close(from[1]);
	if (code) {
		close(to[1]);
		if (out)
			close(from[0]);
		return err_set(e, "cannot start '%s': %s", argv[0], strerror(code));
	}
	*in = to[1];
	fcntl(*in, F_SETFL, O_NONBLOCK);
	if (out) {
		*out = from[0];
		fcntl(*out, F_SETFL, O_NONBLOCK);
	}
	return 0;
}

/* The signal, which would end the job, is blocked in this thread meanwhile, and taken back when it came. */
ssize_t child_write(int fd, const void *data, size_t n)
{
	sigset_t pipe_only, old, pending;
	ssize_t k;

	sigemptyset(&pipe_only);
	sigaddset(&pipe_only, SIGPIPE);
	sigpending(&pending);
	pthread_sigmask(SIG_BLOCK, &pipe_only, &old);
	k = write(fd, data, n);
	int code = errno;
	if (k < 0 && code == EPIPE && !sigismember(&pending, SIGPIPE))
		sigtimedwait(&pipe_only, NULL, &(struct timespec) { 0 });
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	errno = code;
	return k;
}
