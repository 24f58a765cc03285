"""What the README's figures come from; `scripts/bench` runs them."""
