// A root file system of everything that a file can be and have.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';

export const sh = (line: string, ...words: string[]) =>
  execFileSync('sh', ['-ec', line, 'sh', ...words], {
    encoding: 'latin1',
    maxBuffer: 1 << 28,
    stdio: ['ignore', 'pipe', 'inherit'],
  });

/** The programs that makeOddTree needs. */
export const oddTreeNeeds = ['root', 'setcap', 'setfattr', 'getfattr'];

/** Makes such a tree in a new directory. */
export function makeOddTree(directory: string): string {
  sh(
    `mkdir -p "$1/bin" "$1/etc" && cd "$1"
     for name in setuid setgid huge-owner capable one listed attributes; do echo "$name" >bin/$name; done
     chown 5:6 bin/setgid; chown 4294967294:3000000000 bin/huge-owner
     chmod 4755 bin/setuid; chmod 2711 bin/setgid; chmod 4511 bin/huge-owner
     setcap cap_net_raw,cap_net_admin=ep bin/capable
     # acl(5): user::rw- user:1234:r-- group::r-- group:56:rw- mask::rw- other::r--
     acl=0x0200000001000600ffffffff02000400d204000004000400ffffffff080006003800000010000600ffffffff20000400ffffffff
     setfattr -n system.posix_acl_access -v $acl bin/listed; setfattr -n system.posix_acl_default -v $acl etc
     for name in user.b user.c user.a trusted.note; do setfattr -n $name -v 0x610062ff0a bin/attributes; done
     ln bin/one bin/two; ln bin/one three
     ln -s /absolute/nowhere absolute; ln -s ../../../../../etc/passwd up; ln -s "$(printf %3000s | tr ' ' x)" long-link
     chown -h 7:8 absolute; touch -h -d @1234567890.987654321 absolute
     mkfifo -m 640 fifo; mknod -m 600 null c 1 3; mkdir -m 1777 tmp; mkdir -m 000 closed; mkdir -m 0555 ro; : >ro/in
     truncate -s 50M sparse; printf end >>sparse; dd if=/dev/zero of=zeros bs=1M count=1 status=none
     deep=$(printf 'deep%.0s' 1 2 3 4 5 6 7 8 9); mkdir -p $deep/$deep/$deep/$deep/$deep/$deep/$deep/$deep
     echo deep >$deep/$deep/$deep/$deep/$deep/$deep/$deep/$deep/file
     : >"$(printf %255s | tr ' ' n)"; : >empty
     : >'ütf-8 and spaces'; : >"$(printf 'latin-\\351')"; : >'-C'; : >'a*b?[c]'
     touch -d @-86400 old; touch -d @1600000000.123456789 nanoseconds
     chmod 750 .; chown 1:2 .; touch -d @1500000000.5 .`,
    directory,
  );
  return directory;
}

/** How many bytes a file takes on its disk. */
export const allocated = (root: string, name: string) =>
  Number(sh('stat -c %b "$1"', join(root, name))) * 512;
