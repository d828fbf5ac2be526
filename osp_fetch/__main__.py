"""`python -m osp_fetch` is `osp-fetch`."""

from .cli import main

if __name__ == "__main__":
    main()
