"""Training and evaluation on the research corpora: what a corpus asks (`task`, `tasks`), the loop (`training`), its run folder (`runs`),
figures (`scoring`, `robustness`) and the pages of the comparison (`report`)."""
