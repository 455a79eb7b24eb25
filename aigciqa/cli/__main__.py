"""`python -m aigciqa.cli` is the command `aigciqa`."""

from aigciqa.cli.main import main

if __name__ == "__main__":
    main(prog_name="aigciqa")
