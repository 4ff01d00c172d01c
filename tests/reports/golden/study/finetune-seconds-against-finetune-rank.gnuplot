# Drawn again by: gnuplot finetune-seconds-against-finetune-rank.gnuplot
set encoding utf8
set terminal svg size 817,420 noenhanced font 'Helvetica,14' background 'white' rounded
set output 'finetune-seconds-against-finetune-rank.svg'
set border 3 linecolor rgb '#555555'
set tics nomirror out textcolor rgb '#222222'
set grid linecolor rgb '#E3E3E3' linewidth 1 linetype 1
set errorbars 1.2
set title 'finetune time (s) against finetune.rank'
set xlabel 'finetune.rank (with finetune.alpha)'
set ylabel 'finetune time (s)'
set logscale x
set xrange [1.8403753012497504:8.693878900208464]
set yrange [56.6:157.4]
set format y '%.0f'
set format x '%g'
unset mxtics
set xtics (2, 4, 8)
set rmargin at screen 0.7222
set key at screen 0.7344,0.5 left center vertical maxcols 1 Left reverse samplen 2 spacing 1.25
$d2 << EOD
2 151 2 2 150 152
8 151 8 8 150 152
EOD
$r2 << EOD
2 151 2 2 150 152
8 151 8 8 150 152
EOD
$d0 << EOD
2 63 2 2 62 64
4 65 4 4 64 66
8 69 8 8 68 70
EOD
$r0 << EOD
2 63 2 2 62 64
4 65 4 4 64 66
8 69 8 8 68 70
EOD
$d1 << EOD
2 98 2 2 97 99
4 100 4 4 99 101
8 104 8 8 103 105
EOD
$r1 << EOD
2 98 2 2 97 99
4 100 4 4 99 101
8 104 8 8 103 105
EOD
plot $d2 using 1:2 with lines linewidth 1.5 dashtype 4 linecolor rgb '#009E73' title 'Full fine-tuning', \
     $r0 using 1:2:5:6 with yerrorbars pointtype 0 linewidth 1.5 linecolor rgb '#0072B2' notitle, \
     $d0 using 1:2 with linespoints pointtype 7 pointsize 0.9 linewidth 2 dashtype 1 linecolor rgb '#0072B2' title 'lora', \
     $r1 using 1:2:5:6 with yerrorbars pointtype 0 linewidth 1.5 linecolor rgb '#D55E00' notitle, \
     $d1 using 1:2 with linespoints pointtype 5 pointsize 0.9 linewidth 2 dashtype 1 linecolor rgb '#D55E00' title 'qlora'
