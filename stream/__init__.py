"""What happens while it runs: clocks, messages, capture workers, windows, the fusion engine and what people see."""
