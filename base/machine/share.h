/*
 * share.h -- the files that come with the program: configurations, examples, the shapes world.
 *
 * An installed program PREFIX/bin/contraflow has them under PREFIX/share/contraflow, by the paths that they
 * have in the repository; wherever the prefix has been moved to.  A program in its build folder has none: it
 * is started in the repository.
 */
#ifndef SHARE_H
#define SHARE_H

/* The path of such a file or folder, where `path` is relative and nothing is there by that name from here;
 * free(). NULL: it is to be taken as it is. */
char *share_find(const char *path);
/* The same in place of an allocated path. */
void share_replace(char **path);

#endif
