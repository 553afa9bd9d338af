"""The mathematics, in one formula: φ = Σ wₖ · ∂F(γ(tₖ)) · γ'(tₖ).

`quadrature` has the (tₖ, wₖ), `paths` the γ, `baselines` the γ(0), `targets` which scalar of the model is F, `credits`
what else a gradient may be worth, and `engine` takes the sum. `refinement` takes sums over more cells until their error
is below a tolerance, `estimate` estimates that error, and `secant` has what replaces the derivative over a cell.
Nothing in this folder imports a model or a framework: it is handed functions that evaluate and differentiate F.
"""
