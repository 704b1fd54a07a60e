// What demo.ts says, in each language.

/** A chapter: its heading and its explanation. */
type Chapter = [title: string, text: string];

export interface Texts {
  byHand: string;
  pressKey: string;
  tarball: Chapter;
  chroot: Chapter;
  more: (count: number) => string;
  namespaces: Chapter;
  asArticle: string;
  allSteps: string;
  sides: Chapter;
  inside: string;
  outside: (pids: string) => string;
  holder: (pid: number) => string;
  limit: Chapter;
  eater: Chapter;
  notKilled: string;
  kills: (file: string, count: number) => string;
  livesOn: string;
  back: Chapter;
  left: string;
  kept: (path: string) => string;
  end: string;
  next: string;
  /** what to try: a remark for each command */
  tries: { fetch: string; shell: string; limits: string; net: string; inspect: string; runbook: string };
}

const en: Texts = {
  byHand: 'by hand:  ',
  pressKey: 'press a key for the next chapter, q to end',
  tarball: [
    'A root file system is just a tarball',
    'Any tarball will do. This root file system is made of programs of this host, and needs no network.',
  ],
  chroot: [
    'chroot: another root directory, and nothing else',
    'The command runs in the new root directory. But ps still shows every process of the host.',
  ],
  more: (count) => `... and ${count} more`,
  namespaces: [
    'Namespaces: the container sees itself alone',
    'The same ps in new namespaces: it shows the shell, which is PID 1, and ps itself, and no other process.',
  ],
  asArticle: 'as the article does',
  allSteps: 'prints all steps of the command below',
  sides: [
    'The same process from both sides',
    'A shell waits in a container. In the container it is PID 1. On the host it is a process like any other.',
  ],
  inside: 'inside, the shell is PID $$ on $(hostname)',
  outside: (pids) => `outside, it is NSpid: ${pids}`,
  holder: (pid) =>
    `and PID ${pid} is the unshare(1) that made its PID namespace: the two are easily confused`,
  limit: [
    'A memory limit of 100 MB, from outside, while it runs',
    'The limit is a value in one file of a cgroup. The processes that it limits are PIDs in another file.',
  ],
  eater: [
    'A program in the container wants more',
    'The program allocates 10 MB at a time until the kernel kills it:',
  ],
  notKilled: '(not killed)',
  kills: (file, count) =>
    `${file} counts ${count} oom_kill more than before: the kernel's OOM killer enforced the limit of this cgroup.`,
  livesOn: 'the container lives on: its shell is still PID $$',
  back: [
    'Putting everything back',
    'The shell ends. It is PID 1: the kernel ends all processes of its PID namespace with it.',
  ],
  left: 'mounts: the same; cgroups: the same; processes of the container: none left',
  kept: (path) => `; kept: ${path}`,
  end: 'The host is as it was.',
  next: 'What to try next:',
  tries: {
    fetch: 'a root file system for what follows, of programs of this host',
    shell: 'a shell in a container with 100 MB and half a CPU',
    limits: 'limit a process that runs already, here this shell, and all that it starts',
    net: 'a network of its own, and a port of the host that leads to it',
    inspect: 'all containers on this host, whoever made them',
    runbook: 'five nights, with commands to paste',
  },
};

const zh: Texts = {
  byHand: '手工操作：',
  pressKey: '按任意键进入下一章，按 q 结束',
  tarball: ['根文件系统只是一个 tar 包', '任何 tar 包都可以。这里的根文件系统由本机的程序组成，不需要网络。'],
  chroot: ['chroot：换了根目录，仅此而已', '命令在新的根目录中运行，但 ps 仍然能看到主机上的所有进程。'],
  more: (count) => `…… 另有 ${count} 个`,
  namespaces: [
    '命名空间：容器只看得到自己',
    '在新的命名空间里运行同样的 ps：只有 shell（PID 1）和 ps 自己，没有别的进程。',
  ],
  asArticle: '文章中的做法',
  allSteps: '打印下面这条命令的所有步骤',
  sides: [
    '从里外两侧看同一个进程',
    '一个 shell 在容器里等待。在容器里它是 PID 1，在主机上它只是一个普通进程。',
  ],
  inside: '里面：shell 是 $(hostname) 上的 PID $$',
  outside: (pids) => `外面：它的 NSpid 是 ${pids}`,
  holder: (pid) => `PID ${pid} 是创建这个 PID 命名空间的 unshare(1)：两者很容易混淆`,
  limit: [
    '运行中从外部设置 100 MB 的内存限制',
    '限制是 cgroup 中一个文件里的数值；受限的进程是另一个文件里的 PID。',
  ],
  eater: ['容器里的程序想要更多内存', '程序每次分配 10 MB，直到被内核杀死：'],
  notKilled: '（没有被杀死）',
  kills: (file, count) =>
    `${file} 中的 oom_kill 增加了 ${count}：内核的 OOM killer 执行了这个 cgroup 的限制。`,
  livesOn: '容器还活着：它的 shell 仍然是 PID $$',
  back: ['恢复原状', 'shell 结束。它是 PID 1：内核会随它一起结束这个 PID 命名空间里的所有进程。'],
  left: '挂载：不变；cgroup：不变；容器的进程：没有残留',
  kept: (path) => `；保留：${path}`,
  end: '主机和原来一样。',
  next: '接下来可以试试：',
  tries: {
    fetch: '供下面使用的根文件系统，由本机的程序组成',
    shell: '限制为 100 MB 内存、半个 CPU 的容器里的 shell',
    limits: '限制一个已经在运行的进程（这里是当前 shell）和它启动的一切',
    net: '容器自己的网络，以及通向它的主机端口',
    inspect: '本机上的所有容器，不论由谁创建',
    runbook: '五个夜晚：可以直接粘贴的命令',
  },
};

export const texts = { en, zh };
export type Language = keyof typeof texts;
