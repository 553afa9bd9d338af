"""The mathematics, in one sentence: φ = Σ wₖ · ∂F(γ(tₖ)) · γ'(tₖ).

`rules` holds the (tₖ, wₖ), `paths` the γ, `baselines` the γ(0), `targets` says which scalar of the model is F, and
`engine` takes the sum. Nothing here looks for a model: it is handed an oracle, a thing that can evaluate and
differentiate F.
"""
