/* version.h -- the version of the program, for --version, logs and results. */
#ifndef VERSION_H
#define VERSION_H

/* "0.1.0", or of a build from git "0.1.0+COMMIT", with ".dirty" behind it where files were changed.  main()
 * says it, so that a commit builds one small file anew and not everything; until then "unknown". */
const char *version(void);
void version_is(const char *version);

#endif
