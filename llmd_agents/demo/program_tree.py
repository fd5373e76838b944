"""A program's graph as a tree in the terminal."""

from typing import Any

from rich.tree import Tree


def program_tree(graph: dict[str, Any]) -> Tree:
    """Returns a tree of branches and steps, from what `GET /v1/agent/programs/{id}` answers."""
    return _ProgramTree(graph).draw()


def totals_line(graph: dict[str, Any]) -> str:
    """Returns one line on how much of the prompts the engines had cached, and who ran what."""
    prompt = sum(step["prompt_tokens"] or 0 for step in graph["steps"])
    cached = sum(step["cached_tokens"] or 0 for step in graph["steps"])
    engines: dict[str, int] = {}
    for step in graph["steps"]:
        engines[step["engine"]] = engines.get(step["engine"], 0) + 1
    placed = ", ".join(f"{engine} {count}" for engine, count in sorted(engines.items()))
    share = cached / prompt if prompt else 0.0
    return f"{cached:,} of {prompt:,} prompt tokens were cached ({share:.0%}); steps placed: {placed}."


class _ProgramTree:
    def __init__(self, graph: dict[str, Any]) -> None:
        self._graph = graph
        self._forks = {fork["id"]: fork for fork in graph["forks"]}
        self._shown: set[str] = set()

    def draw(self) -> Tree:
        graph = self._graph
        root = Tree(
            f"[bold]{graph['name'] or graph['id']}[/] · {len(graph['steps'])} steps, "
            f"{len(graph['edges'])} edges, {len(graph['branches'])} branches · {graph['status']}"
        )
        self._add_branches(root, None)
        for fork_id in self._forks:
            self._add_fork(root, fork_id)
        return root

    def _add_branches(self, tree: Tree, fork: str | None) -> None:
        branches = [branch for branch in self._graph["branches"] if branch["fork"] == fork]
        for branch in sorted(branches, key=lambda branch: branch["index"] or 0):
            for step in self._graph["steps"]:
                if step["branch"] == branch["id"]:
                    self._add_step(tree, step)

    def _add_step(self, tree: Tree, step: dict[str, Any]) -> None:
        joined = [parent for parent in step["parents"] if parent in self._forks]
        for fork_id in joined:
            self._add_fork(tree, fork_id)
        tree.add(("[cyan]join → [/]" if joined else "") + _step_line(step))

    def _add_fork(self, tree: Tree, fork_id: str) -> None:
        if fork_id in self._shown:
            return
        self._shown.add(fork_id)
        fork = self._forks[fork_id]
        node = tree.add(f"[cyan]fork {fork['name'] or fork_id} × {fork['width']}[/]")
        self._add_branches(node, fork_id)


def _step_line(step: dict[str, Any]) -> str:
    return (
        f"{step['id']:<4} {step['kind'] or '':<11} {step['engine'] or '-':<9} "
        f"prompt {step['prompt_tokens'] or 0:>6,}  cached {step['cached_tokens'] or 0:>6,}"
    )
