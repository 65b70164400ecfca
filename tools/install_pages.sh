#!/bin/sh
# Of `meson install`: manual pages and completions, which the program itself prints from its tables of options.
set -eu
program=$MESON_INSTALL_DESTDIR_PREFIX/bin/contraflow
share=$MESON_INSTALL_DESTDIR_PREFIX/share
man=$share/man/man1
mkdir -p "$man" "$share/bash-completion/completions" "$share/zsh/site-functions" "$share/fish/vendor_completions.d"
"$program" --help=man >"$man/contraflow.1"
for command in $("$program" --help=names); do
	"$program" "$command" --help=man >"$man/contraflow-$command.1"
done
"$program" --help=bash >"$share/bash-completion/completions/contraflow"
"$program" --help=zsh >"$share/zsh/site-functions/_contraflow"
"$program" --help=fish >"$share/fish/vendor_completions.d/contraflow.fish"
