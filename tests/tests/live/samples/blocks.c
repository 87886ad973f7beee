/* Sleeps in a function of this name, called by `middle` and that by `main`, in the way that its argument names. */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int ends[2];
static const char *how;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
__attribute__((noinline)) int block(const char *how)
{
	char byte, command[64];
	volatile char *room = __builtin_alloca(64 + strlen(how));
	room[0] = 0;
	if (!strcmp(how, "poll")) {
		struct pollfd fd = { ends[0], POLLIN, 0 };
		return poll(&fd, 1, -1) + room[0];
	}
	if (!strcmp(how, "condition")) {
		pthread_mutex_lock(&lock);
		return pthread_cond_wait(&condition, &lock) + room[0];
	}
	if (!strcmp(how, "mutex")) {
		pthread_mutex_lock(&lock);
		return pthread_mutex_lock(&lock) + room[0];
	}
	if (!strcmp(how, "system")) {
		/* Ends with this process, which holds the other end. */
		snprintf(command, sizeof command, "exec %d>&-; read line <&%d", ends[1], ends[0]);
		return system(command) + room[0];
	}
	return read(ends[0], &byte, 1) + room[0];
}
__attribute__((noinline)) int compare(const void *a, const void *b)
{
	return block("read") + (a < b);
}
__attribute__((noinline)) void handler(int signal)
{
	static volatile int after;
	after = block("read") + signal;
}
__attribute__((noinline)) void *in_thread(void *argument)
{
	block("read");
	return argument;
}
__attribute__((noinline)) int middle(void)
{
	int values[4] = { 3, 1, 2, 0 };
	pthread_t thread;
	if (!strcmp(how, "qsort")) {
		qsort(values, 4, sizeof *values, compare);
		return values[0];
	}
	if (!strcmp(how, "signal")) {
		signal(SIGUSR1, handler);
		return raise(SIGUSR1) + 1;
	}
	if (!strcmp(how, "thread")) {
		pthread_create(&thread, 0, in_thread, 0);
		return pthread_join(thread, 0) + 1;
	}
	return block(how) + 1;
}
int main(int number, char **words)
{
	how = number > 1 ? words[1] : "read";
	return pipe(ends) ? 1 : middle() + 1;
}
